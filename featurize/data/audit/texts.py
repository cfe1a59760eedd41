"""Texts that occur twice: problems, programs with both labels, solutions in statements."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurize.arrays import Bools, Ints
from featurize.data.audit.labels import LabelledRows, encode
from featurize.data.audit.section import MOST_LISTED, Columns, Rows, Section, columns_of, shown
from featurize.data.index import DatasetIndex
from featurize.data.near_duplicates import near_duplicates, normalise
from featurize.io.figures import FAINT, INCORRECT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["same id", "identical", "same but for case and spacing", "near"]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One prompt of a split and its problems."""

    instruction: str
    text: str
    """Instruction and input."""
    problem_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SharedProblem:
    """Two problems that are equal or nearly so."""

    problem_id: str = shown("problem")
    similarity: float = shown("similarity")
    """Jaccard index of the token n-grams of both statements; 1 for a shared id."""
    kind: str = shown("kind")
    other_id: str = shown("and")


@dataclass(frozen=True, kw_only=True)
class OverlapAudit:
    """The statements of a split that are not independent."""

    against: str | None
    """The other split; None: only the split itself was searched."""
    num_statements: int
    num_instructions: int
    """Distinct instructions, without their input."""
    num_statements_against: int
    num_instructions_against: int
    num_shared_instructions: int
    """Instructions that are exactly equal in both splits."""
    threshold: float
    ngram: int
    shared: tuple[SharedProblem, ...]
    """A problem of the split and one of the other split."""
    within: tuple[SharedProblem, ...]
    """Two problems of the split with different ids."""

    @property
    def shared_ids(self) -> list[str]:
        """The problems of the split that the other one also has, sorted."""
        return sorted({pair.problem_id for pair in self.shared})


def read_statements(index: DatasetIndex) -> list[Statement]:
    """Read the distinct statements of a dataset, in the order of the index."""
    keys = index.table["prompt_key"].combine_chunks().dictionary_encode().indices.to_numpy()
    codes, names = encode(index.table["problem_id"])
    _, firsts = np.unique(keys, return_index=True)
    pairs = np.unique(keys.astype(np.int64) * len(names) + codes)
    prompts, problems = np.divmod(pairs, len(names))
    ids = np.split(problems, np.flatnonzero(np.diff(prompts)) + 1)
    return [
        Statement(
            instruction=sample.instruction,
            text=f"{sample.instruction}\n{sample.input}" if sample.input else sample.instruction,
            problem_ids=tuple(names[code] for code in own.tolist()),
        )
        for sample, own in zip(index.read(firsts), ids, strict=True)
    ]


def audit_overlap(
    statements: list[Statement],
    others: list[Statement],
    *,
    against: str | None,
    threshold: float,
    ngram: int,
) -> OverlapAudit:
    """Compare every statement with every other one, also those of the other split."""
    both = [*statements, *others]
    texts = [statement.text for statement in both]
    shared = [_pair(name, name, 1.0, "same id") for name in _ids(statements) & _ids(others)]
    within = [
        _pair(one, other, 1.0, "identical")
        for statement in statements
        for one, other in itertools.combinations(statement.problem_ids, 2)
    ]
    for i, j, similarity in near_duplicates(texts, threshold=threshold, ngram=ngram):
        kind = _kind(texts[i], texts[j])
        for one, other in itertools.product(both[i].problem_ids, both[j].problem_ids):
            if one == other:
                continue
            if i < len(statements) <= j:
                shared.append(_pair(one, other, similarity, kind))
            elif j < len(statements):
                within.append(_pair(min(one, other), max(one, other), similarity, kind))
    instructions, of_others = ({s.instruction for s in part} for part in (statements, others))
    return OverlapAudit(
        against=against,
        num_statements=len(statements),
        num_instructions=len(instructions),
        num_statements_against=len(others),
        num_instructions_against=len(of_others),
        num_shared_instructions=len(instructions & of_others),
        threshold=threshold,
        ngram=ngram,
        shared=_strongest(shared),
        within=_strongest(within),
    )


def _strongest(found: Iterable[SharedProblem]) -> tuple[SharedProblem, ...]:
    """Keep each pair of problems once, with its highest similarity; sorted by similarity."""
    best: dict[tuple[str, str], SharedProblem] = {}
    for pair in found:
        key = (pair.problem_id, pair.other_id)
        if key not in best or best[key].similarity < pair.similarity:
            best[key] = pair
    return tuple(sorted(best.values(), key=lambda p: (-p.similarity, p.problem_id, p.other_id)))


def _pair(one: str, other: str, similarity: float, kind: Kind) -> SharedProblem:
    return SharedProblem(problem_id=one, other_id=other, similarity=similarity, kind=kind)


def _ids(statements: Iterable[Statement]) -> set[str]:
    return {name for statement in statements for name in statement.problem_ids}


def _kind(one: str, other: str) -> Kind:
    if one == other:
        return "identical"
    return "same but for case and spacing" if normalise(one) == normalise(other) else "near"


def show_overlap(overlap: OverlapAudit, split: str) -> Section:
    """Show how many problems overlap, and the first of them."""
    rows = {
        "statements": overlap.num_statements,
        "instructions": overlap.num_instructions,
        f"pairs of similar problems within {split}": len(overlap.within),
    }
    if overlap.against is not None:
        kinds = Counter(pair.kind for pair in overlap.shared)
        rows |= {
            f"statements of {overlap.against}": overlap.num_statements_against,
            f"instructions of {overlap.against}": overlap.num_instructions_against,
            "instructions in both": overlap.num_shared_instructions,
            f"problems of {split} that are also in {overlap.against}": len(overlap.shared_ids),
            **{f"pairs of these, {kind}": number for kind, number in kinds.items()},
        }
    near = f"near: {overlap.threshold:g} of the {overlap.ngram}-grams"
    listed = {
        f"in {split} and in {overlap.against}": overlap.shared,
        f"twice in {split}": overlap.within,
    }
    return Section(
        tables=[
            Rows(title=f"overlap ({near})", rows=rows),
            *(_list_problems(title, pairs) for title, pairs in listed.items() if pairs),
        ],
        figures={"overlap": partial(_draw, overlap)} if any(listed.values()) else {},
    )


def _list_problems(title: str, pairs: Sequence[SharedProblem]) -> Columns:
    if len(pairs) > MOST_LISTED:
        title = f"{title} (first {MOST_LISTED} of {len(pairs):,})"
    return columns_of(title, pairs[:MOST_LISTED])


def _draw(overlap: OverlapAudit, axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    parts: list[tuple[str, Sequence[SharedProblem], Any]] = [
        (f"{len(overlap.shared):,} with {overlap.against}", overlap.shared, INCORRECT),
        (f"{len(overlap.within):,} within the split", overlap.within, FAINT),
    ]
    shown = [part for part in parts if part[1]]
    axes.hist(
        [[pair.similarity for pair in pairs] for _, pairs, _ in shown],
        np.linspace(min(overlap.threshold, 0.95), 1, 21).tolist(),
        stacked=True,
        color=[colour for *_, colour in shown],
        label=[label for label, *_ in shown],
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"share of common {overlap.ngram}-grams of two statements")
    axes.set_ylabel("pairs of problems")
    axes.set_title("Problems that occur twice")


ROWS_AT_ONCE = 4096

SHORTEST_SOLUTION = 40
"""Characters below which a statement may contain a solution by chance."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """The result of one pass over all texts."""

    programs: npt.NDArray[np.uint64]
    """Hash of each output without blank lines and trailing spaces, [rows]."""
    is_in_statement: Bools
    """Whether the statement contains the output, ignoring white space, [rows]."""


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """One program of a problem that has both labels."""

    problem_id: str = shown("problem")
    correct: tuple[str, ...] = shown("correct")
    """Task ids of the samples labelled correct."""
    incorrect: tuple[str, ...] = shown("incorrect")


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A statement that contains a correct solution."""

    problem_id: str = shown("problem")
    task_id: str = shown("sample")


@dataclass(frozen=True, kw_only=True)
class TextAudit:
    """Repeats, contradictions and leaks in a split."""

    num_repeats: int
    """Samples whose program occurs earlier in their problem."""
    contradictions: tuple[Contradiction, ...]
    num_contradicting_samples: int
    leaks: tuple[Leak, ...]


def read_texts(index: DatasetIndex, progress: Progress | None = None) -> Texts:
    """Read every text of a dataset once, a few thousand at a time."""
    programs = np.empty(len(index), np.uint64)
    is_in_statement = np.zeros(len(index), bool)
    folded = ("", "", "")  # instruction, input, both without white space
    for start in range(0, len(index), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(index))
        for row, sample in enumerate(index.read(np.arange(start, stop)), start):
            if folded[:2] != (sample.instruction, sample.input):  # rows of a prompt are adjacent
                whole = _fold(sample.instruction + " " + sample.input)
                folded = (sample.instruction, sample.input, whole)
            programs[row] = program_key(sample.output)
            output = _fold(sample.output)
            is_in_statement[row] = len(output) >= SHORTEST_SOLUTION and output in folded[2]
        if progress is not None:
            progress(stop, len(index))
    return Texts(programs=programs, is_in_statement=is_in_statement)


def program_key(output: str) -> int:
    """Hash a program, ignoring blank lines and trailing spaces."""
    lines = (line.rstrip() for line in output.splitlines())
    content = "\n".join(line for line in lines if line)
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "little")


def audit_texts(table: pa.Table, labelled: LabelledRows, texts: Texts) -> TextAudit:
    """Find programs with both labels, and solutions in statements."""
    hashes, programs = np.unique(texts.programs[labelled.rows], return_inverse=True)
    keys = labelled.problems * len(hashes) + programs
    # The program of each sample within its problem, [samples], and its number of samples.
    _, codes, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    num_correct = np.bincount(codes[labelled.is_correct], minlength=len(sizes))
    is_both = (num_correct > 0) & (num_correct < sizes)
    leaking = np.flatnonzero(labelled.is_correct & texts.is_in_statement[labelled.rows])
    leaks = [
        Leak(problem_id=labelled.problem_ids[labelled.problems[place]], task_id=task_id)
        for place, task_id in zip(leaking, _task_ids(table, labelled, leaking), strict=True)
    ]
    return TextAudit(
        num_repeats=len(codes) - len(sizes),
        contradictions=tuple(_contradictions(table, labelled, codes, is_both)),
        num_contradicting_samples=int(sizes[is_both].sum()),
        leaks=tuple(sorted(leaks, key=lambda leak: (leak.problem_id, leak.task_id))),
    )


def _contradictions(
    table: pa.Table, labelled: LabelledRows, codes: Ints, is_both: Bools
) -> Iterator[Contradiction]:
    """Collect the samples [samples] of every program [programs] that has both labels."""
    places = np.flatnonzero(is_both[codes])
    places = places[np.argsort(codes[places], kind="stable")]
    task_ids = _task_ids(table, labelled, places)
    for _, group in itertools.groupby(zip(places, task_ids, strict=True), lambda p: codes[p[0]]):
        samples = sorted((task_id, place) for place, task_id in group)
        labels = labelled.is_correct
        yield Contradiction(
            problem_id=labelled.problem_ids[labelled.problems[samples[0][1]]],
            correct=tuple(task_id for task_id, place in samples if labels[place]),
            incorrect=tuple(task_id for task_id, place in samples if not labels[place]),
        )


def _task_ids(table: pa.Table, labelled: LabelledRows, places: Ints) -> list[str]:
    task_ids: list[str] = table["task_id"].take(pa.array(labelled.rows[places])).to_pylist()
    return task_ids


def _fold(text: str) -> str:
    return "".join(text.split())


def show_texts(texts: TextAudit) -> Section:
    """Show the counts, and the first contradictions and leaks."""
    counts = {
        "samples that repeat a program of their problem": texts.num_repeats,
        "programs labelled both correct and incorrect": len(texts.contradictions),
        "samples of those": texts.num_contradicting_samples,
        "solutions that the statement contains": len(texts.leaks),
    }
    tables: list[Rows | Columns] = [Rows(title="programs", rows=counts)]
    if texts.contradictions:
        title = f"programs with both labels (at most {MOST_LISTED})"
        tables.append(columns_of(title, texts.contradictions[:MOST_LISTED]))
    if texts.leaks:
        title = f"solutions in the statement (at most {MOST_LISTED})"
        tables.append(columns_of(title, texts.leaks[:MOST_LISTED]))
    return Section(tables=tables)
