"""What training, sweeps and evaluation log, whatever receives it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]
Point = tuple[int, float]
"""Optimizer step, value of a metric."""

History = Sequence[tuple[int, Mapping[str, float]]]
"""Optimizer steps with their metrics."""


class Tracker:
    """Receives what training, sweeps and evaluation log. This base class discards it."""

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start a run, or continue `run_id` if it still exists; return the id of the run."""
        return run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of an optimizer step; they may be buffered."""

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Return step and metrics of everything that is buffered."""
        return []

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, in the run's folder `folder`."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and end the run."""

    def log_child(self, name: str, parameters: Mapping[str, str], history: History) -> None:
        """Log a finished run as a child of this one; `history` is step and metrics."""

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head, or to a new run if it is gone.

        Files keep their folders relative to that of the first one.
        """

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """Return the logged points of those metrics that a run has, in the order of the steps."""
        return {}


@contextmanager
def finishes(tracker: Tracker) -> Iterator[None]:
    """End the tracked run with the block: as finished, failed, or killed by an interrupt."""
    try:
        yield
    except BaseException as error:
        tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracker.finish()
