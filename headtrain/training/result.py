"""The result of a training run: its heads, its accuracies and its pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from headtrain.training.resume import RunFolder


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a finished run."""

    best: Path | None
    """Folder of the head with the highest validation accuracy."""
    final: Path | None
    """Folder of the head of the last step."""
    num_steps: int
    num_pairs: int
    num_possible_pairs: int
    num_problems: int
    """Problems with a pair."""
    num_samples: int
    """Distinct samples of the pairs."""
    num_unlabelled: int
    """Samples of the store without a label."""
    num_left_out: int
    """Labelled samples that data_sampling.pairwise excludes by difficulty or problem."""
    num_held_out: int
    """Labelled samples of the train problems held out."""
    mean_length_difference: float
    """Mean of correct minus incorrect output tokens over the pairs."""
    longer_is_correct: float
    """Pairwise accuracy of calling the longer output correct; 0.5 means no shortcut."""
    train_metrics: dict[str, float]
    """The last logged means."""
    best_step: int | None
    valid_over_problems: float | None
    """Pairwise accuracy of the best head, mean over problems."""
    valid_over_pairs: float | None
    holdout_over_problems: float | None
    """The same on train problems held out; far above valid it shows a shift between the splits."""
    holdout_over_pairs: float | None
    stopped_early: bool
    seconds: float
    """Training time over all starts of the run."""
    tracking_run_id: str | None
    train_over_problems: float | None = None
    """Accuracy on a subset of the train problems without dropout, of the best head if there is one,
    else of the last; None for a run of an older version."""
    train_over_pairs: float | None = None
    num_equal_pairs: int = 0
    """Pairs left out because both sides have the same tokens."""
    num_shared_ids: int = 0
    """Problem ids with several statements, which are not paired with one another."""
    was_up_to_date: bool = False
    """Whether the run had finished before, so nothing was done."""
    resumed_from_step: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return the rows of the table shown at the end; what was left out only if anything was."""
        return {
            "pairs": f"{self.num_pairs:,} of {self.num_possible_pairs:,} possible",
            "problems": self.num_problems,
            "samples": self.num_samples,
            **self._left_out(),
            "correct longer by, tokens": self.mean_length_difference,
            "longer is correct, of the pairs": self.longer_is_correct,
            "steps": f"{self.num_steps:,}{', stopped early' if self.stopped_early else ''}",
            **({} if self.best_step is None else {"best step": self.best_step}),
            **self._accuracies(),
            "seconds": f"{self.seconds:,.1f}",
        }

    def _accuracies(self) -> dict[str, float]:
        """Return the rows of the accuracies, all without dropout, so that they compare."""
        rows = {
            "train accuracy over problems": self.train_over_problems,
            "train accuracy over pairs": self.train_over_pairs,
            "held-out train accuracy over problems": self.holdout_over_problems,
            "held-out train accuracy over pairs": self.holdout_over_pairs,
            "valid accuracy over problems": self.valid_over_problems,
            "valid accuracy over pairs": self.valid_over_pairs,
        }
        return {name: value for name, value in rows.items() if value is not None}

    def _left_out(self) -> dict[str, int]:
        """Return the rows of what few datasets have."""
        rows = {
            "samples without a label": self.num_unlabelled,
            "samples held out": self.num_held_out,
            "samples not allowed in pairs": self.num_left_out,
            "pairs of equal tokens, left out": self.num_equal_pairs,
            "problem ids with several statements": self.num_shared_ids,
        }
        return {name: number for name, number in rows.items() if number}

    @classmethod
    def find(cls, folder: RunFolder, identity: Mapping[str, Any]) -> Self | None:
        """Read the result of a run if it has finished; None if it has not.

        Raises:
            CheckpointError: the folder holds another run.
        """
        result = folder.finished(identity)
        return None if result is None else cls.from_run(folder, result, was_up_to_date=True)

    @classmethod
    def from_run(cls, folder: RunFolder, result: Mapping[str, Any], **how: Any) -> Self:
        """Convert the result in run.json; `how` sets was_up_to_date or resumed_from_step."""
        fields = dict(result)
        best = fields.pop("best") or {}
        return cls(
            best=folder.best if fields.pop("has_best") else None,
            final=folder.final if fields.pop("has_final") else None,
            best_step=best.get("step"),
            valid_over_problems=best.get("over_problems"),
            valid_over_pairs=best.get("over_pairs"),
            holdout_over_problems=best.get("holdout_over_problems"),
            holdout_over_pairs=best.get("holdout_over_pairs"),
            **how,
            **fields,
        )
