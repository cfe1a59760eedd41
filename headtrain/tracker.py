"""What training and evaluation tell about themselves, and a listener that follows nothing."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]
Point = tuple[int, float]  # a step, and a metric's value there


class Tracker(Protocol):
    """What training and evaluation tell about themselves."""

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """Start a run, or go on with run_id; returns the run's id, None where nothing follows."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Note metrics of an optimizer step."""

    def flush(self) -> None:
        """Write what is waiting."""

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Step and metrics of what was noted and not yet written."""

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Attach files to the run, below `folder`."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is waiting and close the run."""

    def log_child(
        self,
        name: str,
        parameters: Mapping[str, str],
        history: Sequence[tuple[int, Mapping[str, float]]],
    ) -> None:
        """Note a whole run below this one: its parameters, and its metrics at some steps."""

    def child_names(self) -> Collection[str]:
        """Names of the whole runs noted below this one; what a kill left of others goes."""

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Attach an evaluation to the run that trained the head."""

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """What a run has logged of these metrics, by step; without those it has nothing of."""


class NullTracker:
    """Follows nothing."""

    def begin(self, config: Mapping[str, Any], run_id: str | None) -> str | None:
        """No run is started; a run id from earlier is kept."""
        return run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def waiting(self) -> list[tuple[int, dict[str, float]]]:
        """Nothing waits."""
        return []

    def log_files(self, files: Sequence[Path], folder: str) -> None:
        """Do nothing."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Do nothing."""

    def log_child(
        self,
        name: str,
        parameters: Mapping[str, str],
        history: Sequence[tuple[int, Mapping[str, float]]],
    ) -> None:
        """Do nothing."""

    def child_names(self) -> Collection[str]:
        """None were noted."""
        return ()

    def log_evaluation(
        self, run_id: str | None, metrics: Mapping[str, float], files: Sequence[Path]
    ) -> None:
        """Do nothing."""

    def history(self, run_id: str | None, names: Sequence[str]) -> dict[str, list[Point]]:
        """Nothing was followed."""
        return {}
