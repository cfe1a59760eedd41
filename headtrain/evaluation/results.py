"""What an evaluation found: plain frozen values, ready for a table or for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from headtrain.metrics.bootstrap import Interval
from headtrain.metrics.calibration import Decision, ReliabilityBin


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
class PairResult:
    """How often a judge ranks a pair rightly; 0.5 is chance."""

    accuracy_over_pairs: Interval
    """Every pair weighs the same, so problems with many samples rule."""

    accuracy_over_problems: Interval
    """Every problem weighs the same."""


@dataclass(frozen=True, kw_only=True)
class JudgeResult(PairResult):
    """How well one judge, the head or a shortcut, ranks a split."""

    auc: Interval
    """Over all samples, whatever their problem: includes knowing which problems are easy."""


@dataclass(frozen=True, kw_only=True)
class ValueResult:
    """Where the head's scores, or its probabilities, of either label lie."""

    mean_correct: Interval
    mean_incorrect: Interval
    gap: Interval


@dataclass(frozen=True, kw_only=True)
class VarianceResult:
    """Where the variance of the head's scores lies."""

    between_problems: Interval | None
    """Share of it between problems; the rest is within. None when all scores are equal."""

    intraclass_correlation: Interval | None
    """The same without what chance adds where problems have few samples; None for one problem."""


@dataclass(frozen=True, kw_only=True)
class DecisionResult:
    """How the head's calibrated probabilities and yes/no calls, fitted on train, hold here."""

    probabilities: ValueResult
    f1: Interval
    f1_of_calling_all_correct: Interval
    """What F1 is worth without any judgement."""

    expected_calibration_error: Interval
    brier: Interval


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """What is known about every split."""

    counts: Counts
    judges: Mapping[str, JudgeResult]
    """The head first, then the shortcuts."""

    values: ValueResult
    variance: VarianceResult
    decision: DecisionResult | None
    """None when there was no train split to fit on."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some of the pairs, judged apart."""

    name: str
    num_pairs: int
    num_problems: int
    judges: Mapping[str, PairResult]
    """The head, and those shortcuts that say something here."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A judge that must get 50%: if it does not, the harness is broken or leaks."""

    result: PairResult
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How much of the head's accuracy no shortcut explains."""

    best_shortcut: str
    """The shortcut with the highest accuracy over problems on this very split."""

    margin: PairResult
    """Head minus that shortcut, paired."""

    rescued: Interval | None
    """Of the pairs that shortcut ranks wrongly, the share that the head ranks rightly."""


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Pass rate when one of n candidates is picked, over all subsets of n."""

    num_problems: int
    """Problems with at least as many candidates as the largest n: the same for the whole curve."""

    num_problems_left_out: int
    n: tuple[int, ...]
    pickers: Mapping[str, tuple[Interval, ...]]
    """By picker, a pass rate for each n: head, mean (any candidate), oracle, shortest, ..."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is looked at on the split that is judged, and not on train."""

    controls: Mapping[str, Control]
    verdict: Verdict | None
    """None without any shortcut."""

    length_correlation: Interval | None
    """Mean rank correlation of score and length within problems; None where none can be had."""

    length_matched: Slice | None
    """Pairs of about one length; None when there are none."""

    minimal_pairs: Slice | None
    """Pairs a small edit apart; None when there are none or the texts are not there."""

    breakdowns: Mapping[str, tuple[Slice, ...]]
    """By attribute: difficulty, language, source, candidates, length_difference."""

    best_of_n: BestOfN | None
    reliability: tuple[ReliabilityBin, ...]
    """Empty without a calibration."""

    left_out: Mapping[str, str]
    """What could not be looked at, and why."""


@dataclass(frozen=True, kw_only=True)
class TrainDifference:
    """Train minus another split: how much of what the head shows on train is not carried over."""

    accuracy_over_pairs: Interval
    accuracy_over_problems: Interval
    gap: Interval
    """On the head's own scale, which means nothing by itself."""

    probability_gap: Interval
    """On the scale of calibrated probabilities: the one a target can be set for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of judging one head."""

    splits: Mapping[str, SplitResult]
    details: Mapping[str, Details]
    """Of the splits that were looked at closely."""

    train_minus: Mapping[str, TrainDifference]
    """By the name of the other split; empty without a train split."""

    decision: Decision | None
    bootstrap_rounds: int
    confidence: float
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Return nested dicts of plain numbers, for JSON."""
        return asdict(self)
