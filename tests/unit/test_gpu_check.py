"""The check of a GPU: it runs in small on a CPU, and it fails where something is wrong."""

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.gpu import correctness, kernels, timing
from tests.gpu.kernels import compare_attention
from tests.gpu.machine import datasheet_peak
from tests.gpu.main import main, state_aims
from tests.gpu.models import count_work, load_drawn, write_config
from tests.gpu.report import Found, Report, Skip, to_markdown
from tests.gpu.timing import kind_of, union_length
from tests.support.loaded_backbones import CPU
from tests.support.workloads import make_workload

ROOT = Path(__file__).parents[2]
ONLY_ON_CUDA = {
    "B1 packs run through varlen_attn",
    "B4 waits a pack",
    "B7 tiny of 2 layers from safetensors: peak / weights",
    "B7 tiny of 2 layers from llama-MTP: peak / weights",
    "B8 two ranks, tensor_parallel_size",
    "B8 two ranks, shard_backbone",
    "B9 40 steps of a head: waits a step",
    "C. Compiled blocks: backbone tiny",
}


@pytest.mark.slow
def test_the_check_in_small_passes_on_a_cpu_and_claims_nothing_of_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu-check.json"
    script = [sys.executable, "tests/gpu_check.py", "--device", "cpu", "--tiny", "--out", str(out)]
    ended = subprocess.run(
        script, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(out.read_text())
    by_status: dict[str, set[str]] = {"PASS": set(), "SKIP": set()}
    for check in found["checks"]:
        by_status[check["status"]].add(check["check"])
        assert check["status"] == "PASS" or check["note"]  # a reason
    assert by_status["SKIP"] >= ONLY_ON_CUDA
    assert all(name.startswith("C. Peers") for name in by_status["SKIP"] - ONLY_ON_CUDA)
    for section in ("B1", "B2", "B3", "B5", "B6", "B8", "B9"):
        assert any(name.startswith(section) for name in by_status["PASS"]), section
    tables = found["tables"]
    assert {name[0] for name in tables} == {"A", "C", "D", "E"}
    assert all(row["unique tokens/s"] > 0 for row in tables["C. Featurizing"])
    assert all(row["GPU busy %"] is None for name in "CE" for row in table(tables, name))
    assert tables["D. Texts to store"][0]["forward"].startswith("forward: packed")
    assert all(row["measured"] is None for row in tables["Aims"])
    assert "### C. Featurizing" in ended.stdout


def table(tables: dict[str, Any], letter: str) -> list[dict[str, Any]]:
    """The rows of the section's main table."""
    names = {"C": "C. Featurizing", "E": "E. Heads"}
    rows: list[dict[str, Any]] = tables[names[letter]]
    return rows


def test_attention_that_sees_another_prompt_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = compare_attention(CPU, torch.bfloat16, 4, 2, 64, None)
    assert right.error is not None
    assert right.limit is not None
    assert right.error <= right.limit

    def sees_all(_module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        keys, values = (tensor.repeat_interleave(2, dim=1) for tensor in (key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, is_causal=True
        )
        return attended.transpose(1, 2), None

    monkeypatch.setattr(kernels, "shared_prompt_attention", sees_all)
    wrong = compare_attention(CPU, torch.bfloat16, 4, 2, 64, None)
    assert wrong.error is not None
    assert wrong.error > right.limit


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (lambda: Found(error=1e-3, limit=1e-2), "PASS"),
        (lambda: Found(error=2e-2, limit=1e-2), "FAIL"),
        (lambda: Found(error=float("nan"), limit=1e-2), "FAIL"),
        (lambda: Found(error=1e-3), "FAIL"),
        (lambda: 1 / 0, "FAIL"),
    ],
    ids=["within", "above", "NaN", "no limit", "raises"],
)
def test_a_check_passes_only_within_its_limit(run: Any, status: str) -> None:
    found = Report(minutes=1)
    found.check("one", run)
    assert [row["status"] for row in found.checks] == [status]
    assert found.has_failed == (status == "FAIL")


@pytest.mark.parametrize(("minutes", "told"), [(1, "no GPU"), (0, "minutes are over")])
def test_what_is_skipped_has_its_reason_and_no_row(minutes: int, told: str) -> None:
    def skip() -> Any:
        raise Skip("no GPU")

    found = Report(minutes=minutes)
    found.check("one", skip)
    assert found.measure("table", skip, size=1) is None
    assert [row["status"] for row in found.checks] == ["SKIP", "SKIP"]
    assert all(told in row["note"] for row in found.checks)
    assert not found.has_failed
    assert found.tables == {}


def test_a_section_that_breaks_off_fails_and_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken\nmore")

    names = ("check_correctness", "check_loaders", "measure_heads", "measure_featurizing")
    for name in (*names, "measure_end_to_end", "measure_peers"):
        monkeypatch.setattr(f"tests.gpu.main.{name}", broken)
    out = tmp_path / "found.json"
    assert main(["--device", "cpu", "--tiny", "--out", str(out)]) == 1
    checks = json.loads(out.read_text())["checks"]
    assert [check["status"] for check in checks] == ["FAIL"] * 6
    assert checks[0]["note"] == "RuntimeError: broken"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().out


def test_aims_are_met_by_what_was_measured() -> None:
    found = Report(minutes=1)
    row = {"backbone": "7B", "forward": "packed", "likelihood": True, "MFU of GEMM %": 51.0}
    found.tables["C. Featurizing"] = [row, row | {"MFU of GEMM %": 40.0}]
    found.tables["E. Heads"] = [{"heads": 1, "width": 4096, "s an epoch of 50000": 0.4}]
    state_aims(found)
    aims = {row["aim"]: row["met"] for row in found.tables["Aims"]}
    assert aims["7B: MFU of GEMM >= 50%"] is True
    assert aims["4096: an epoch of a head <= 0.3 s"] is False
    assert aims["135M: GPU busy >= 85%"] is None


def test_work_is_counted_once_a_prompt(tmp_path: Path) -> None:
    backbone = load_drawn(write_config(tmp_path, "tiny"), CPU, torch.float32)
    groups = make_workload(1, 2, (10, 10), 2048)
    prompt, outputs = 10, [len(output) for output in groups[0].outputs]
    weights = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64)
    pairs = prompt * 11 / 2 + sum(o * prompt + o * (o + 1) / 2 for o in outputs)
    work = count_work(backbone, groups, likelihood=True)
    assert work.blocks == pytest.approx(2 * weights * (prompt + sum(outputs)))
    assert work.attention == 4 * 64 * pairs * 2
    assert work.logits == 2 * 64 * 2048 * sum(outputs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<...>>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTT", "GEMM"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "GEMM"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::(anonymous namespace)::indexSelectLargeIndex<float>", "copies"),
        ("void at::native::(anonymous namespace)::segment_reduce_forward_kernel", "pooling"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", "elementwise"),
        ("aten::addmm", "GEMM"),
    ],
)
def test_kernels_have_a_kind_by_their_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_kernels_of_a_gpu_are_counted_and_what_the_host_does_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def event(name: str, start: float, end: float, kind: str = "CUDA") -> SimpleNamespace:
        span = SimpleNamespace(start=start, end=end)
        device_type = getattr(torch.autograd.DeviceType, kind)
        return SimpleNamespace(name=name, time_range=span, device_type=device_type)

    events = [
        event("cudaLaunchKernel", 0, 100, "CPU"),
        event("nvjet_hsh_128x256", 0, 60),
        event("void flash::flash_fwd_kernel<traits>", 40, 60),
        event("Memcpy DtoH (Device -> Pinned)", 90, 110),
    ]
    found = contextlib.nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(timing, "profile", lambda **_: found)
    monkeypatch.setattr(timing, "wait", lambda _: None)
    run = timing.kernels_of(lambda: None, torch.device("cuda"))
    assert run.number == 3
    assert run.busy_seconds == pytest.approx(80e-6)
    assert run.shares["GEMM"] == pytest.approx(0.6)
    assert run.of_kind("attention") == ["void flash::flash_fwd_kernel"]


def test_waits_are_counted_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def run() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    places = correctness.waits_of(run)
    assert list(places.values()) == [3]
    assert next(iter(places)).startswith("test_gpu_check.py:")
    assert modes == ["warn", "default"]


def test_overlapping_kernels_are_busy_once() -> None:
    assert union_length([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4


def test_peaks_are_those_of_the_datasheet() -> None:
    assert datasheet_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert datasheet_peak("NVIDIA H100 PCIe") == 756e12
    assert datasheet_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert datasheet_peak("NVIDIA GeForce GTX 1080") is None


def test_tables_have_the_columns_of_all_rows() -> None:
    lines = to_markdown([{"a": 1, "b": 0.123456}, {"a": 2, "c": None}])
    assert lines == ["| a | b | c |", "| --- | --- | --- |", "| 1 | 0.1235 | - |", "| 2 | - | - |"]


def test_numbers_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    found = Report(minutes=1)
    found.check("one", lambda: Found(error=float("inf"), limit=1.0))
    found.write(tmp_path / "found.json")
    content = json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail)
    assert content["checks"][0]["error"] == "inf"
