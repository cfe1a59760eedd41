"""Section D: from texts to a store, against the engine alone."""

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from featurize.run import compute
from featurize.run.launch import run_job
from tests.gpu.featurizing import Speed
from tests.gpu.jobs import Notes, make_job
from tests.gpu.models import drawn_weights
from tests.gpu.report import Report, Row
from tests.gpu.timing import free_memory

TABLE = "D. Texts to store"
PROBLEMS = {"tiny": 12, "135M": 700, "7B": 200}
"""Problems of 8 candidates: some seconds of work each."""


@dataclass
class Waits:
    """Seconds that the main loop waited for its threads, by the name of the pool."""

    seconds: Counter[str] = field(default_factory=Counter)

    def pool(self, size: int, name: str = "", *more: Any, **options: Any) -> ThreadPoolExecutor:
        """A pool whose results tell how long the main thread waits for them."""
        name = options.pop("thread_name_prefix", name)
        return _TimedPool(self, size, name, *more, **options)


class _TimedPool(ThreadPoolExecutor):
    def __init__(self, waits: Waits, size: int, name: str, *more: Any, **options: Any) -> None:
        super().__init__(size, name, *more, **options)
        self._waits, self._name = waits, name

    def submit(self, run: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future = super().submit(run, *args, **options)
        plain = future.result

        def result(timeout: float | None = None) -> Any:
            started = time.perf_counter()
            try:
                return plain(timeout)
            finally:
                if threading.current_thread() is threading.main_thread():
                    self._waits.seconds[self._name] += time.perf_counter() - started

        future.result = result  # type: ignore[method-assign]
        return future


def measure_end_to_end(
    report: Report, device: torch.device, best: dict[str, Speed], *, is_tiny: bool
) -> None:
    """Run a job for each size and compare its rate with the engine's."""
    for shape in ("tiny",) if is_tiny else ("135M", "7B"):
        speed = best.get(shape)

        def run(shape: str = shape, speed: Speed | None = speed) -> Row:
            return measure_job(shape, device, speed, is_tiny=is_tiny)

        report.measure(TABLE, run, backbone=shape)
        free_memory(device)


def measure_job(shape: str, device: torch.device, speed: Speed | None, *, is_tiny: bool) -> Row:
    """One job from samples to a finished store, in this process."""
    notes, waits = Notes(), Waits()
    budget = max(speed.budget, 2048) if speed is not None else 8192
    with tempfile.TemporaryDirectory() as folder, drawn_weights():
        job = make_job(
            Path(folder),
            shape,
            device,
            problems=PROBLEMS[shape],
            is_tiny=is_tiny,
            dtype="bfloat16",
            token_budget=budget,
            likelihood=True,
        )
        with mock.patch.object(compute, "ThreadPoolExecutor", waits.pool):
            summary = run_job(job, notes, workers=1)
    rate = notes.tokens_per_second
    alone = speed.tokens_per_second if speed is not None else None
    # The time of the kernels of a token is that of section C; it does not depend on the rest.
    us = speed.gpu_us_a_token if speed is not None else None
    return {
        "budget": budget,
        "unique tokens": summary.counts["unique_tokens"],
        "seconds with loading": summary.seconds,
        "unique tokens/s": rate,
        "of the engine alone %": 100 * rate / alone if alone else None,
        "GPU busy % by C": 100 * rate * us / 1e6 if us is not None else None,
        "s waited for reader": waits.seconds["reader"],
        "s waited for writer": waits.seconds["writer"],
        "forward": next((line for line in notes.notes if line.startswith("forward")), ""),
    }
