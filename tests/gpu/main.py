"""Runs all sections of the check of a GPU."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.gpu.correctness import check_correctness
from tests.gpu.end_to_end import measure_end_to_end
from tests.gpu.featurizing import Speed, measure_featurizing
from tests.gpu.heads import measure_heads
from tests.gpu.loaders import check_loaders
from tests.gpu.machine import measure_machine
from tests.gpu.peers import measure_peers
from tests.gpu.report import Report, Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; 0 if nothing failed, 1 otherwise, 2 if there is no such device."""
    options = _parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device here; check with --device cpu --tiny")
        return 2
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    report = Report(minutes=options.minutes)
    try:
        run_sections(report, device, is_tiny=options.tiny)
    finally:
        report.print_tables()
        report.write(options.out)
    return int(report.has_failed)


def run_sections(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Run every section; one that breaks off fails, and the next one runs."""
    peaks = measure_machine(report, device, is_tiny=is_tiny)
    best: dict[str, Speed] = {}

    report.section("B1-B6", lambda: check_correctness(report, device, is_tiny=is_tiny))
    report.section("B7-B8", lambda: check_loaders(report, device, is_tiny=is_tiny))
    report.section("B9, E", lambda: measure_heads(report, device, is_tiny=is_tiny))
    report.section(
        "C", lambda: best.update(measure_featurizing(report, device, peaks, is_tiny=is_tiny))
    )
    report.section("D", lambda: measure_end_to_end(report, device, best, is_tiny=is_tiny))
    # Last, because a peer may take minutes to start.
    report.section("C, peers", lambda: measure_peers(report, device, is_tiny=is_tiny))
    state_aims(report)


def state_aims(report: Report) -> None:
    """State which aims of the project were met; they are aims, so none of them fails."""
    for name, aim, value in _aims(report):
        row: Row = {"measured": value, "met": None if value is None else _is_met(aim, value)}
        report.tables.setdefault("Aims", []).append({"aim": name, **row})


def _is_met(aim: float, value: float) -> bool:
    """A negative aim is an upper limit."""
    return value >= aim if aim > 0 else value <= -aim


def _aims(report: Report) -> list[tuple[str, float, float | None]]:
    def most(table: str, column: str, **wanted: object) -> float | None:
        rows = report.tables.get(table, [])
        fits = [row[column] for row in rows if wanted.items() <= row.items()]
        return max((value for value in fits if value is not None), default=None)

    engine, store = "C. Featurizing", "D. Texts to store"
    packed = {"forward": "packed", "likelihood": True}
    faster = {"table": "C. Peers", "column": "critic is faster"}
    loop, st = "transformers, padded by 16", "sentence-transformers"
    heads = report.tables.get("E. Heads", [])
    epochs = [
        value
        for row in heads
        for key, value in row.items()
        if key.startswith("s an epoch") and row["heads"] == 1 and row["width"] == 4096
    ]
    return [
        ("7B: MFU of GEMM >= 50%", 50, most(engine, "MFU of GEMM %", backbone="7B", **packed)),
        ("7B: GPU busy >= 95%", 95, most(store, "GPU busy % by C", backbone="7B")),
        ("135M: GPU busy >= 85%", 85, most(store, "GPU busy % by C", backbone="135M")),
        ("7B: >= 4 times the padded loop", 4, most(**faster, backbone="7B", way=loop)),
        ("135M: >= 5 times sentence-transformers", 5, most(**faster, backbone="135M", way=st)),
        ("4096: an epoch of a head <= 0.3 s", -0.3, min(epochs, default=None)),
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks and measures a GPU: docs/cluster.md.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, as on a CPU in the tests")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="what starts later is skipped")
    return parser.parse_args(arguments)
