"""What the length or the author of an output alone says about its label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurize.arrays import Ints
from featurize.data.audit.labels import MOST_SLICES, LabelledRows
from featurize.data.audit.section import Columns, Section, columns_of, scale_log, shown
from featurize.data.authors import SEPARATOR, AuthorPrior
from featurize.io.figures import CORRECT, INCORRECT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_BINS = 40

LENGTH_ROWS = (
    "mean, correct",
    "mean, incorrect",
    "pairs",
    "correct longer by",
    "longer is correct",
    "... over problems",
)
"""Rows of the table, which has a column for each unit."""


@dataclass(frozen=True, kw_only=True)
class PairLengths:
    """Lengths over all possible pairs; None without pairs."""

    num_pairs: int = 0
    num_problems: int = 0
    mean_difference: float | None = None
    """Correct minus incorrect, mean over pairs."""
    longer_over_pairs: float | None = None
    """Accuracy of calling the longer output correct, ties count half; 0.5 means no shortcut."""
    longer_over_problems: float | None = None
    """The same, mean over problems."""


@dataclass(frozen=True, kw_only=True)
class LengthHistogram:
    """Outputs by length, in geometric bins."""

    edges: tuple[int, ...]
    """Edges of the bins, [bins + 1]; empty without labelled samples."""
    correct: tuple[int, ...]
    """Correct outputs, [bins]."""
    incorrect: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LengthAudit:
    """Lengths of outputs in one unit."""

    unit: str
    """characters or tokens."""
    mean_correct: float | None
    mean_incorrect: float | None
    pairs: PairLengths
    matched_bin: int
    """Width of the length bins of `matched`."""
    matched: PairLengths
    """Over the pairs whose lengths are in one bin."""
    histogram: LengthHistogram


def audit_lengths(
    labelled: LabelledRows, lengths: Ints, *, unit: str, matched_bin: int
) -> LengthAudit:
    """Compare the lengths [samples] of labelled samples."""
    correct, incorrect = lengths[labelled.is_correct], lengths[~labelled.is_correct]
    bins = lengths // matched_bin
    cells = labelled.groups * (int(bins.max(initial=0)) + 1) + bins
    return LengthAudit(
        unit=unit,
        mean_correct=float(correct.mean()) if len(correct) else None,
        mean_incorrect=float(incorrect.mean()) if len(incorrect) else None,
        pairs=measure_pairs(labelled, labelled.groups, lengths),
        matched_bin=matched_bin,
        matched=measure_pairs(labelled, np.unique(cells, return_inverse=True)[1], lengths),
        histogram=_histogram(correct, incorrect),
    )


def measure_pairs(labelled: LabelledRows, cells: Ints, lengths: Ints) -> PairLengths:
    """Measure the pairs within equal cells [samples] (dense codes), without enumerating them."""
    is_correct = labelled.is_correct
    num_cells, num_lengths = int(cells.max(initial=-1)) + 1, int(lengths.max(initial=0)) + 1
    keys = cells * num_lengths + lengths
    rivals = np.sort(keys[~is_correct])
    own = keys[is_correct]
    firsts = np.searchsorted(rivals, cells[is_correct] * num_lengths)
    shorter = np.searchsorted(rivals, own, "left") - firsts  # rivals of each correct sample
    equal = np.searchsorted(rivals, own, "right") - firsts - shorter
    num_rivals = np.bincount(cells[~is_correct], minlength=num_cells)[cells[is_correct]]
    total = np.bincount(cells[~is_correct], lengths[~is_correct], minlength=num_cells)
    differences = num_rivals * lengths[is_correct] - total[cells[is_correct]]

    problems, size = labelled.problems[is_correct], len(labelled.problem_ids)
    num_pairs = np.bincount(problems, num_rivals, minlength=size)
    wins = np.bincount(problems, shorter + equal / 2, minlength=size)
    has_pairs = num_pairs > 0
    if not has_pairs.any():
        return PairLengths()
    return PairLengths(
        num_pairs=int(num_pairs.sum()),
        num_problems=int(has_pairs.sum()),
        mean_difference=float(differences.sum() / num_pairs.sum()),
        longer_over_pairs=float(wins.sum() / num_pairs.sum()),
        longer_over_problems=float((wins[has_pairs] / num_pairs[has_pairs]).mean()),
    )


def _histogram(correct: Ints, incorrect: Ints) -> LengthHistogram:
    lengths = np.concatenate([correct, incorrect])
    if not len(lengths):
        return LengthHistogram(edges=(), correct=(), incorrect=())
    edges = np.geomspace(max(1, lengths.min()), lengths.max() + 1, NUM_BINS)
    edges = np.unique(edges.astype(np.int64))
    counts = [np.histogram(part, edges)[0].tolist() for part in (correct, incorrect)]
    return LengthHistogram(
        edges=tuple(edges.tolist()), correct=tuple(counts[0]), incorrect=tuple(counts[1])
    )


def show_lengths(lengths: Sequence[LengthAudit]) -> Section:
    """Show the lengths in every unit; the figure has the last."""
    names, columns = [], []
    for length in lengths:
        means = (length.mean_correct, length.mean_incorrect)
        names += [length.unit, f"bins of {length.matched_bin}"]
        columns += [(*means, *_of_pairs(length.pairs)), (None, None, *_of_pairs(length.matched))]
    table = Columns(
        title="length of outputs, and the accuracy of length alone",
        columns=("", *names),
        rows=list(zip(LENGTH_ROWS, *columns, strict=True)),
    )
    has_labels = bool(lengths[-1].histogram.edges)
    return Section(
        tables=[table], figures={"lengths": partial(_draw, lengths[-1])} if has_labels else {}
    )


def _of_pairs(pairs: PairLengths) -> tuple[Any, ...]:
    accuracies = (pairs.longer_over_pairs, pairs.longer_over_problems)
    return (pairs.num_pairs, pairs.mean_difference, *accuracies)


def _draw(audit: LengthAudit, axes: "Axes") -> None:
    histogram = audit.histogram
    for name, counts, mean, colour in (
        ("correct", histogram.correct, audit.mean_correct, CORRECT),
        ("incorrect", histogram.incorrect, audit.mean_incorrect, INCORRECT),
    ):
        if mean is not None:
            shares = 100 * np.array(counts) / max(1, sum(counts))
            label = f"{name}: {sum(counts):,}, mean {mean:,.0f}"
            axes.stairs(shares, histogram.edges, color=colour, label=label)
            axes.axvline(mean, color=colour, linestyle=":")
    scale_log(axes)
    axes.set_xlabel(f"{audit.unit} of the output")
    axes.set_ylabel("% of the samples with a label")
    if audit.pairs.longer_over_pairs is not None:
        axes.set_title(
            f'"longer is correct": {audit.pairs.longer_over_pairs:.1%} of pairs, '
            f"{audit.pairs.longer_over_problems:.1%} per problem"
        )


@dataclass(frozen=True, kw_only=True)
class Author:
    """The labelled samples of one author, alone or with others."""

    name: str = shown("author")
    num_samples: int = shown("samples")
    share_correct: float = shown("share correct")
    above_problem: float = shown("above pass rate")
    """Mean of label minus the pass rate of its problem."""


@dataclass(frozen=True, kw_only=True)
class AuthorAudit:
    """What the author says about correctness."""

    authors: tuple[Author, ...]
    """Most samples first."""
    num_unknown: int
    """Labelled samples without an author."""
    over_pairs: float | None
    """Accuracy of the author's success on all other problems; ties count half, 0.5 is chance."""
    over_problems: float | None
    """The same, mean over problems."""


def audit_authors(table: pa.Table, labelled: LabelledRows) -> AuthorAudit | None:
    """Audit the authors of labelled samples; None if no sample has one."""
    if "author" not in table.column_names or not len(labelled.rows):
        return None
    texts = table["author"].take(pa.array(labelled.rows)).to_pylist()
    prior = AuthorPrior.fit(texts, labelled.is_correct, labelled.groups)
    scores = prior.score_left_out(texts, labelled.is_correct, labelled.groups)
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.int64)
    pairs = measure_pairs(labelled, labelled.groups, ranks)
    return AuthorAudit(
        authors=_count(texts, labelled, prior),
        num_unknown=texts.count(None),
        over_pairs=pairs.longer_over_pairs,
        over_problems=pairs.longer_over_problems,
    )


def _count(
    texts: Sequence[str | None], labelled: LabelledRows, prior: AuthorPrior
) -> tuple[Author, ...]:
    num_correct = dict.fromkeys(prior.residuals, 0)
    for text, is_correct in zip(texts, labelled.is_correct.tolist(), strict=True):
        for name in text.split(SEPARATOR) if text else ():
            num_correct[name] += is_correct
    authors = [
        Author(
            name=name,
            num_samples=count,
            share_correct=num_correct[name] / count,
            above_problem=total / count,
        )
        for name, (total, count) in prior.residuals.items()
    ]
    return tuple(sorted(authors, key=lambda author: (-author.num_samples, author.name)))


def show_authors(audit: AuthorAudit) -> Section:
    """Show the authors and the accuracy of the author alone."""
    left_out = len(audit.authors) - MOST_SLICES
    accuracy = "the author alone has no pair to order"
    if audit.over_pairs is not None:
        accuracy = (
            f"the author alone orders {audit.over_pairs:.1%} of pairs, "
            f"{audit.over_problems:.1%} per problem"
        )
    more = f" (the largest; {left_out:,} more)" if left_out > 0 else ""
    title = f"by author{more}: {accuracy}"
    return Section(tables=[columns_of(title, audit.authors[:MOST_SLICES])])
