"""What a training run gave: its heads, its numbers and what its pairs were."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from headtrain.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run was and gave."""

    best: Path | None
    """Folder of the head with the highest validation accuracy."""
    final: Path | None
    """Folder of the head of the last step."""
    num_steps: int
    num_pairs: int
    num_possible_pairs: int
    num_problems: int
    """Problems the pairs come from."""
    num_samples: int
    """Distinct samples the pairs touch."""
    num_unlabelled: int
    """Samples of the store left out for want of a label."""
    num_left_out: int
    """Labelled samples that data_sampling.pairwise keeps out: by difficulty, or by problem."""
    num_held_out: int
    """Labelled samples of the train problems held out, which are scored only."""
    mean_length_difference: float
    """Mean of correct minus incorrect output tokens over the pairs."""
    longer_is_correct: float
    """Accuracy over the pairs of calling the longer output correct; 0.5 hides no shortcut."""
    train_metrics: dict[str, float]
    """The last logged means."""
    best_step: int | None
    valid_over_problems: float | None
    """Pairwise accuracy of the best head, mean over problems."""
    valid_over_pairs: float | None
    holdout_over_problems: float | None
    """The same on train problems held out; far above valid tells a shift between the splits."""
    holdout_over_pairs: float | None
    stopped_early: bool
    seconds: float
    """Time in the loop, over all its starts."""
    tracking_run_id: str | None
    was_up_to_date: bool = False
    """The run had finished before and nothing was done."""
    resumed_from_step: int | None = None

    def describe(self) -> dict[str, Any]:
        """The lines of the table shown at the end."""
        return {
            "pairs": self.num_pairs,
            "possible pairs": self.num_possible_pairs,
            "problems": self.num_problems,
            "samples": self.num_samples,
            "samples without a label": self.num_unlabelled,
            "samples held out": self.num_held_out,
            "samples not allowed in pairs": self.num_left_out,
            "correct longer by, tokens": self.mean_length_difference,
            "longer is correct, of the pairs": self.longer_is_correct,
            "steps": self.num_steps,
            **{f"last {name}": value for name, value in self.train_metrics.items()},
            "best step": self.best_step,
            "stopped early": "yes" if self.stopped_early else "no",
            "valid accuracy over problems": self.valid_over_problems,
            "valid accuracy over pairs": self.valid_over_pairs,
            **(
                {
                    "held-out train accuracy over problems": self.holdout_over_problems,
                    "held-out train accuracy over pairs": self.holdout_over_pairs,
                }
                if self.num_held_out
                else {}
            ),
            "seconds": self.seconds,
        }

    @classmethod
    def from_run(
        cls,
        folder: RunFolder,
        result: Mapping[str, Any],
        *,
        was_up_to_date: bool = False,
        resumed_from_step: int | None = None,
    ) -> Self:
        """The result as run.json keeps it, with the paths of the folder it lies in."""
        fields = dict(result)
        best = fields.pop("best")
        return cls(
            best=folder.best if fields.pop("has_best") else None,
            final=folder.final if fields.pop("has_final") else None,
            best_step=best["step"] if best else None,
            valid_over_problems=best["over_problems"] if best else None,
            valid_over_pairs=best["over_pairs"] if best else None,
            holdout_over_problems=best["holdout_over_problems"] if best else None,
            holdout_over_pairs=best["holdout_over_pairs"] if best else None,
            was_up_to_date=was_up_to_date,
            resumed_from_step=resumed_from_step,
            **fields,
        )
