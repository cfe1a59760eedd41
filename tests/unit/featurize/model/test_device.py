"""Device, number format, and the token budget: what is asked for, else what suits."""

import os

import pytest
import torch

from featurize.errors import CriticError
from featurize.model.device import (
    choose_token_budget,
    extends_memory,
    has_fast_bfloat16,
    resolve_device,
    resolve_dtype,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[False, True], ids=["without cuda", "with cuda"])
def has_cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return bool(request.param)


def test_auto_prefers_cuda(has_cuda: bool) -> None:
    expected = torch.device("cuda", 1) if has_cuda else CPU
    assert resolve_device("auto", local_rank=1) == expected


def test_cpu_is_cpu_everywhere(has_cuda: bool) -> None:
    assert resolve_device("cpu", local_rank=1) == CPU


def test_cuda_is_refused_without_a_device(has_cuda: bool) -> None:
    if has_cuda:
        assert resolve_device("cuda") == torch.device("cuda", 0)
        return
    with pytest.raises(ValueError, match=r"runtime\.device is 'cuda', but") as caught:
        resolve_device("cuda")
    assert "--set runtime.device=auto" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tpu", "gpu", "cuda:1", ""])
def test_another_device_is_refused_instead_of_replaced(name: str) -> None:
    with pytest.raises(CriticError, match="must be auto, cpu or cuda"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("mixed_precision", [True, False])
def test_a_named_number_format_is_used(name: str, mixed_precision: bool) -> None:
    expected = getattr(torch, name)
    assert resolve_dtype(name, CPU, mixed_precision=mixed_precision) == expected


@pytest.mark.parametrize(
    ("capabilities", "is_fast"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
    ],
)
def test_auto_on_cpu_is_bfloat16_only_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], is_fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bfloat16(CPU) is is_fast
    assert resolve_dtype("auto", CPU) == (torch.bfloat16 if is_fast else torch.float32)
    assert resolve_dtype("auto", CPU, mixed_precision=False) == torch.float32


@pytest.mark.parametrize(
    ("has_bfloat16", "capability", "expected"),
    [
        (True, (9, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),  # T4
        (False, (7, 0), torch.float16),  # V100
        (False, (6, 1), torch.float32),
    ],
)
def test_auto_on_cuda_is_the_16_bits_that_the_hardware_multiplies(
    monkeypatch: pytest.MonkeyPatch,
    has_bfloat16: bool,
    capability: tuple[int, int],
    expected: torch.dtype,
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or has_bfloat16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_dtype("auto", CUDA) == expected
    assert resolve_dtype("auto", CUDA, mixed_precision=False) == torch.float32


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_gpu_memory_is_extended_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(variable, raising=False)
    before = dict(os.environ)
    with extends_memory(CPU):
        assert dict(os.environ) == before
    with extends_memory(CUDA):
        assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert dict(os.environ) == before
    monkeypatch.setenv(name, "max_split_size_mb:64")
    before = dict(os.environ)
    with extends_memory(CUDA):
        assert dict(os.environ) == before


def test_other_devices_have_no_fast_bfloat16() -> None:
    assert not has_fast_bfloat16(torch.device("meta"))


@pytest.mark.parametrize(
    ("num_parameters", "tokens"),
    [
        (135_000_000, 65_536),
        (499_999_999, 65_536),
        (500_000_000, 32_768),
        (1_100_000_000, 32_768),
        (3_000_000_000, 16_384),
        (7_000_000_000, 16_384),
        (None, 16_384),
    ],
)
def test_a_smaller_backbone_gets_more_tokens_on_a_gpu(
    num_parameters: int | None, tokens: int
) -> None:
    assert choose_token_budget(None, CUDA, num_parameters, 2048).tokens == tokens
    assert choose_token_budget(None, CPU, num_parameters, 2048).tokens == 8192


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_the_longest_sample_fits_whatever_is_chosen(device: torch.device) -> None:
    assert choose_token_budget(None, device, 10**9, 100_000).tokens == 100_000


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_taken(device: torch.device) -> None:
    found = choose_token_budget(700, device, 10**9, 2048)
    assert (found.tokens, str(found)) == (700, "700 tokens (featurize.token_budget)")


def test_the_plan_says_where_the_number_comes_from() -> None:
    found = choose_token_budget(None, CUDA, 7_200_000_000, 2048)
    assert str(found) == "16,384 tokens (chosen for 7.2B parameters on cuda)"
    assert str(choose_token_budget(None, CPU, None, 2048)) == "8,192 tokens (chosen for cpu)"
