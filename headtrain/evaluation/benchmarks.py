"""Metrics of public benchmarks of reward models: accuracy by subset and by style."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featurize.arrays import Bools, Strings
from featurize.data.pair_rows import BenchmarkRow
from headtrain.evaluation.benchmark_scores import Score, ScoredRows, measure_scores, ties_lost
from headtrain.evaluation.numbers import Number
from headtrain.evaluation.read import ReadSplit
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings

NO_SUBSET = "(no subset)"
_ANSWER = re.compile(r"#(correct|incorrect)\.(\d+)$")


@dataclass(frozen=True, kw_only=True)
class SubsetAccuracy:
    """Accuracy on one subset, or on all pairs."""

    num_pairs: int
    num_ties: int
    """Pairs with equal scores: wrong here, one half in our own accuracy."""
    accuracy: float
    """Share of pairs whose correct answer scores strictly higher."""


@dataclass(frozen=True, kw_only=True)
class SubsetResults:
    """Accuracy on every subset."""

    subsets: Mapping[str, SubsetAccuracy]
    all_pairs: SubsetAccuracy
    """Every pair has the same weight, as within a section of RewardBench."""
    mean_over_subsets: float
    """Every subset has the same weight."""


@dataclass(frozen=True, kw_only=True)
class StyleAccuracy:
    """Accuracy by the styles of the two answers."""

    num_prompts: int
    easy: float
    """Mean of the cells below the diagonal: the correct answer is the fancier one."""
    normal: float
    """Mean of the diagonal: both answers have the same style."""
    hard: float
    """Mean of the cells above the diagonal: the incorrect answer is the fancier one."""

    @property
    def average(self) -> float:
        """Mean of the three."""
        return (self.easy + self.normal + self.hard) / 3


@dataclass(frozen=True, kw_only=True)
class BenchmarkResults:
    """The metrics of one file of pairs."""

    subsets: SubsetResults
    styles: StyleAccuracy | None
    """None if the file is not in styles."""
    scores: tuple[Score, ...] = ()
    """What else the rows allow: top 1, Ties, sections, accuracies by aspect and language."""

    @property
    def numbers(self) -> list[Number]:
        """The scores with their names; `benchmark` is their place in the JSON."""
        return [one.to_number(f"benchmark.scores.{n}") for n, one in enumerate(self.scores)]

    @property
    def metrics(self) -> dict[str, float]:
        """The scores under the names that the tracking server plots, without `eval/<split>/`."""
        return {name: value for number in self.numbers for name, value in number.to_metrics()}

    def to_dict(self) -> dict[str, Any]:
        """Convert to nested dicts of plain values, for JSON."""
        styles = self.styles
        return {
            "subsets": asdict(self.subsets),
            "styles": asdict(styles) | {"average": styles.average} if styles else None,
            "scores": [asdict(score) for score in self.scores],
        }


def measure_benchmark(
    read: ReadSplit, rows: Sequence[BenchmarkRow], settings: EvaluationSettings, seed: list[int]
) -> BenchmarkResults:
    """Measure accuracy by subset (the attribute `source`), by style (in the task ids), and `rows`.

    Raises:
        EvaluationError: no problem has both labels.
    """
    task_ids = read.texts.task_ids.to_pylist()
    scored = ScoredRows.join(rows, read.scored, task_ids, settings, seed)
    return BenchmarkResults(
        subsets=measure_subsets(read.scored, read.facts.attributes.get("source")),
        styles=measure_styles(read.scored, task_ids),
        scores=measure_scores(scored),
    )


def measure_subsets(scored: ScoredSamples, subsets: Strings | None) -> SubsetResults:
    """Measure strict accuracy by subset; `subsets` are text or None, [samples], one per problem.

    Raises:
        EvaluationError: no problem has both labels.
    """
    counts = pairwise_counts(scored)
    strict = pairwise_counts(scored.with_scores(ties_lost(scored)))  # the same problems
    names = np.full(len(scored), None, object) if subsets is None else subsets
    _, first = np.unique(scored.problem, return_index=True)
    of_problem = dict(zip(scored.problem[first].tolist(), names[first].tolist(), strict=True))
    found = np.array([of_problem[code] or NO_SUBSET for code in counts.problem.tolist()], object)

    def add_up(is_in: Bools) -> SubsetAccuracy:
        num_pairs, wins = int(counts.num_pairs[is_in].sum()), float(strict.wins[is_in].sum())
        return SubsetAccuracy(
            num_pairs=num_pairs,
            num_ties=round(2 * (float(counts.wins[is_in].sum()) - wins)),
            accuracy=wins / num_pairs,
        )

    by_name = {name: add_up(found == name) for name in sorted(set(found.tolist()))}
    return SubsetResults(
        subsets=by_name,
        all_pairs=add_up(np.ones(len(found), bool)),
        mean_over_subsets=float(np.mean([one.accuracy for one in by_name.values()])),
    )


def measure_styles(scored: ScoredSamples, task_ids: Sequence[str]) -> StyleAccuracy | None:
    """Measure accuracy by style, as RM-Bench does.

    Cell [i, j] is the share of prompts whose correct answer in style i scores strictly higher than
    the incorrect one in style j; styles go from plain to fancy. `task_ids` [samples] end in
    `#correct.<style>` or `#incorrect.<style>`. None unless every problem has both answers in the
    same styles, at least two.
    """
    found = [_ANSWER.search(task_id) for task_id in task_ids]
    styles = np.array([int(one[2]) if one else -1 for one in found], np.int64)
    num_styles, num_problems = int(styles.max(initial=-1)) + 1, scored.num_groups
    if num_styles < 2 or (styles < 0).any() or len(scored) != 2 * num_styles * num_problems:
        return None
    values = np.full((2, num_problems, num_styles), np.nan)  # incorrect and correct answers
    values[scored.is_correct.astype(np.int64), scored.group, styles] = scored.scores
    if np.isnan(values).any():
        return None
    wrong, right = values
    cells = (right[:, :, None] > wrong[:, None, :]).mean(0)  # [correct style, incorrect style]
    return StyleAccuracy(
        num_prompts=num_problems,
        easy=float(cells[np.tril_indices(num_styles, -1)].mean()),
        normal=float(np.diag(cells).mean()),
        hard=float(cells[np.triu_indices(num_styles, 1)].mean()),
    )
