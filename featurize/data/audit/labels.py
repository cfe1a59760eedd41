"""The labels of a split: possible pairs, balance, and counts by difficulty, language or source."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools, Ints
from featurize.data.audit.section import (
    Rows,
    Section,
    by_power_of_two,
    columns_of,
    draw_by_power_of_two,
    rows_of,
    shown,
)
from featurize.io.figures import FAINT, INCORRECT
from featurize.store.samples import find_shared_ids, statement_codes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNKNOWN = "unknown"
"""The name of missing values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows:
    """The samples that have a label; all arrays are [samples]."""

    rows: Ints
    """Row in the index."""
    problems: Ints
    """Code of the problem, into problem_ids."""
    groups: Ints
    """Code of problem, language and statement, from 0 without gaps; pairs are made within."""
    is_correct: Bools
    problem_ids: tuple[str, ...]
    num_rows: int
    """Samples of the split, labelled or not."""

    @property
    def num_groups(self) -> int:
        """The number of codes."""
        return int(self.groups.max(initial=-1)) + 1

    def num_rivals(self) -> Ints:
        """Count the incorrect samples to pair each correct one with; 0 for others, [samples]."""
        incorrect = np.bincount(self.groups[~self.is_correct], minlength=self.num_groups)
        return np.where(self.is_correct, incorrect[self.groups], 0)


def read_labelled_rows(table: pa.Table) -> LabelledRows:
    """Read the labelled rows of an index's table."""
    problem_codes, problem_ids = encode(table["problem_id"])
    languages, _ = encode(table["language"])
    rows = np.flatnonzero(pc.is_valid(table["is_correct"]).to_numpy())
    labels = pc.fill_null(table["is_correct"], False).to_numpy()
    problems = problem_codes[rows]
    statements = statement_codes(table)
    keys = problems * (int(languages.max(initial=0)) + 1) + languages[rows]
    keys = keys * (int(statements.max(initial=0)) + 1) + statements[rows]
    return LabelledRows(
        rows=rows,
        problems=problems,
        groups=np.unique(keys, return_inverse=True)[1].astype(np.int64),
        is_correct=labels[rows].astype(bool),
        problem_ids=tuple(problem_ids),
        num_rows=table.num_rows,
    )


def encode(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Get the codes [rows] of a column and the values they are for; null becomes "unknown"."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), UNKNOWN]
    codes = pc.fill_null(encoded.indices, len(names) - 1).to_numpy().astype(np.int64)
    return codes, names


BALANCE_BINS = 10

MOST_SLICES = 15
"""Difficulties, languages or sources in a table; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The samples of one difficulty, language or source."""

    name: str = shown("name")
    num_samples: int = shown("samples")
    num_problems: int = shown("problems")
    share_correct: float | None = shown("share correct")
    """Among the labelled samples; None if none is labelled."""
    num_pairs: int = shown("pairs")
    """Pairs within problem and language whose correct sample is in this slice."""


@dataclass(frozen=True, kw_only=True)
class LabelAudit:
    """The labels of a split."""

    num_samples: int = shown("samples")
    num_correct: int = shown("correct")
    num_unlabelled: int = shown("without a label")
    num_problems: int = shown("problems")
    num_shared_ids: int = shown("problem ids with several statements")
    num_problems_with_both: int = shown("problems with both labels")
    num_problems_only_correct: int = shown("problems with correct samples only")
    num_problems_only_incorrect: int = shown("problems with incorrect samples only")
    mean_share_correct: float | None = shown("mean pass rate of problems with both")
    balance: tuple[int, ...] = shown("pass-rate histogram (deciles)")
    num_pairs: int = shown("possible pairs (problem and language)")
    num_problems_with_pairs: int = shown("problems that have pairs")
    largest_share: float | None = shown("share of pairs in the largest 1% of them")
    pairs_left_by_cap: dict[int, int]
    """Cap of pairs per problem -> pairs left."""
    pairs_histogram: dict[int, int]
    """Problems by their pairs: those below each power of two and not below the one before."""


def audit_labels(table: pa.Table, labelled: LabelledRows, caps: Sequence[int]) -> LabelAudit:
    """Count the labels and pairs of an index's table."""
    num_ids = len(labelled.problem_ids)
    sizes = np.bincount(labelled.problems, minlength=num_ids)
    num_correct = np.bincount(labelled.problems[labelled.is_correct], minlength=num_ids)
    has_both = (num_correct > 0) & (num_correct < sizes)
    pairs = np.bincount(labelled.problems, labelled.num_rivals(), minlength=num_ids)
    pairs = np.sort(pairs[pairs > 0]).astype(np.int64)
    shares = num_correct / np.maximum(sizes, 1)
    shared = find_shared_ids(table)
    largest = pairs[-max(1, len(pairs) // 100) :].sum()
    return LabelAudit(
        num_samples=labelled.num_rows,
        num_unlabelled=labelled.num_rows - len(labelled.rows),
        num_correct=int(labelled.is_correct.sum()),
        num_problems=len(np.unique(encode(table["problem_id"])[0])),
        num_shared_ids=shared.num_problems if shared else 0,
        num_problems_with_both=int(has_both.sum()),
        num_problems_only_correct=int(((sizes > 0) & (num_correct == sizes)).sum()),
        num_problems_only_incorrect=int(((sizes > 0) & (num_correct == 0)).sum()),
        num_pairs=int(pairs.sum()),
        num_problems_with_pairs=len(pairs),
        largest_share=float(largest / pairs.sum()) if len(pairs) else None,
        pairs_left_by_cap={cap: int(np.minimum(pairs, cap).sum()) for cap in caps},
        mean_share_correct=float(shares[has_both].mean()) if has_both.any() else None,
        balance=tuple(np.histogram(shares[sizes > 0], BALANCE_BINS, (0, 1))[0].tolist()),
        pairs_histogram=by_power_of_two(pairs),
    )


def show_labels(labels: LabelAudit, split: str) -> Section:
    """Show the counts of labels and pairs."""
    caps = {
        f"pairs with a cap of {cap:,} per problem": left
        for cap, left in labels.pairs_left_by_cap.items()
    }
    rows = rows_of(labels) | caps
    figures = {}
    if labels.num_samples > labels.num_unlabelled:
        figures["labels"] = partial(_draw_balance, labels)
    if labels.num_pairs:
        figures["pairs"] = partial(_draw_pairs, labels)
    return Section(tables=[Rows(title=f"labels of {split}", rows=rows)], figures=figures)


def _draw_balance(labels: LabelAudit, axes: "Axes") -> None:
    edges = np.linspace(0, 1, len(labels.balance) + 1)
    axes.bar(edges[:-1], labels.balance, width=np.diff(edges) * 0.92, align="edge", color=FAINT)
    axes.set_xlabel("share of correct samples in a problem")
    axes.set_ylabel("problems")
    axes.set_title(
        f"{labels.num_problems_with_both:,} of {labels.num_problems:,} problems have both labels"
    )


def _draw_pairs(labels: LabelAudit, axes: "Axes") -> None:
    name = f"{labels.num_problems_with_pairs:,} problems"
    draw_by_power_of_two(axes, labels.pairs_histogram, name, color=FAINT, fill=True)
    for cap, left in labels.pairs_left_by_cap.items():
        name = f"a cap of {cap:,} leaves {left:,} of {labels.num_pairs:,} pairs"
        axes.axvline(cap, color=INCORRECT, linestyle="--", label=name)
    axes.set_xlabel("possible pairs of a problem")
    axes.set_ylabel("% of the problems with pairs")
    axes.set_title("Pairs per problem")


def slice_by(table: pa.Table, labelled: LabelledRows, column: str) -> tuple[Slice, ...]:
    """Count samples by the values of a column, in order of their numbers or names."""
    codes, names = encode(table[column])
    problems, _ = encode(table["problem_id"])
    size = len(names)
    owners = np.unique(problems * size + codes) % size  # each problem once per value
    num_samples, num_problems = (np.bincount(each, minlength=size) for each in (codes, owners))
    of_labelled = codes[labelled.rows]
    num_labelled = np.bincount(of_labelled, minlength=size)
    num_correct = np.bincount(of_labelled[labelled.is_correct], minlength=size)
    num_pairs = np.bincount(of_labelled, labelled.num_rivals(), minlength=size)
    shares = num_correct / np.maximum(num_labelled, 1)
    slices = [
        Slice(
            name=names[code],
            num_samples=int(num_samples[code]),
            num_problems=int(num_problems[code]),
            share_correct=float(shares[code]) if num_labelled[code] else None,
            num_pairs=int(num_pairs[code]),
        )
        for code in np.flatnonzero(num_samples).tolist()
    ]
    return tuple(sorted(slices, key=_sort_key))


def _sort_key(part: Slice) -> tuple[bool, float, str]:
    try:
        return part.name == UNKNOWN, float(part.name), ""
    except ValueError:
        return part.name == UNKNOWN, float("inf"), part.name


def show_slices(slices: Sequence[Slice], column: str) -> Section:
    """Show the slices of a column, if there are several."""
    if len(slices) < 2:
        return Section(tables=[])
    largest = sorted(slices, key=lambda part: -part.num_samples)[:MOST_SLICES]
    left_out = len(slices) - len(largest)
    title = f"by {column}" + (f" (the largest; {left_out:,} more)" if left_out else "")
    return Section(tables=[columns_of(title, [p for p in slices if p in largest], column)])
