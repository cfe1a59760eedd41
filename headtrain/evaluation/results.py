"""What an evaluation found: plain frozen values, ready for a table or for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from headtrain.evaluation.calibration import Decision
from headtrain.evaluation.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the numbers of a split rest on."""

    num_samples: int
    """Labelled samples; values, F1, AUC and calibration are over all of them."""

    num_samples_left_out: int
    """Samples in no pair, because their problem has one label only."""

    num_problems: int
    """Problems with both labels; pairwise accuracies are over these."""

    num_problems_left_out: int
    """Problems with one label only."""

    num_pairs: int
    """(correct, incorrect) combinations within problems."""


@dataclass(frozen=True, kw_only=True)
class JudgeResult:
    """How well one judge, the head or a shortcut, ranks a split."""

    accuracy_over_pairs: Interval
    accuracy_over_problems: Interval
    auc: float


@dataclass(frozen=True, kw_only=True)
class ValueResult:
    """Where the head's scores, or its probabilities, of either label lie."""

    mean_correct: float
    mean_incorrect: float
    gap: Interval


@dataclass(frozen=True, kw_only=True)
class DecisionResult:
    """How the head's calibrated probabilities and yes/no calls, fitted on train, hold here."""

    probabilities: ValueResult
    f1: float
    f1_of_calling_all_correct: float
    """What F1 is worth without any judgement."""

    expected_calibration_error: float
    brier: float


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """All that is known about one split."""

    counts: Counts
    judges: Mapping[str, JudgeResult]
    """The head first, then the shortcuts."""

    values: ValueResult
    decision: DecisionResult | None
    """None when there was no train split to fit on."""


@dataclass(frozen=True, kw_only=True)
class TrainDifference:
    """Train minus another split: how much of what the head shows on train is not carried over."""

    accuracy_over_problems: Interval
    gap: Interval
    probability_gap: Interval


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of judging one head."""

    splits: Mapping[str, SplitResult]
    train_minus: Mapping[str, TrainDifference]
    """By the name of the other split; empty without a train split."""

    decision: Decision | None
    bootstrap_rounds: int
    confidence: float
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Return nested dicts of plain numbers, for JSON."""
        return asdict(self)
