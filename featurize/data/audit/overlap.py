"""Which problems of a split come again: in the other split, and under another id in their own."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featurize.data.audit.rows import encode
from featurize.data.index import DatasetIndex
from featurize.data.near_duplicates import near_duplicates, normalise

Kind = Literal["same id", "identical", "same but for case and spacing", "near"]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One prompt of a split and the problems it is the statement of."""

    instruction: str
    text: str
    """Instruction and input."""
    problem_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SharedProblem:
    """Two problems that are one, or nearly."""

    problem_id: str
    other_id: str
    similarity: float
    """Share of the token n-grams that both statements have; 1 for a shared id."""
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class OverlapAudit:
    """How independent the statements are."""

    against: str | None
    """The other split; None: only the split itself was looked at."""
    num_statements: int
    num_instructions: int
    """Different instructions, whatever the input."""
    num_statements_against: int
    num_instructions_against: int
    num_shared_instructions: int
    """Instructions that both splits have to the letter."""
    threshold: float
    ngram: int
    shared: tuple[SharedProblem, ...]
    """A problem of the split with one of the other split."""
    within: tuple[SharedProblem, ...]
    """Two problems of the split with other ids."""

    @property
    def shared_ids(self) -> list[str]:
        """The problems of the split that the other one has too, sorted."""
        return sorted({pair.problem_id for pair in self.shared})


def read_statements(index: DatasetIndex) -> list[Statement]:
    """The distinct statements of a dataset, in the order of the index."""
    keys = index.table["prompt_key"].combine_chunks().dictionary_encode().indices.to_numpy()
    codes, names = encode(index.table["problem_id"])
    _, firsts = np.unique(keys, return_index=True)
    pairs = np.unique(np.stack([keys.astype(np.int64), codes], axis=1), axis=0)  # [pairs, 2]
    ids = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)
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
    """Compare every statement with every other one, those of the other split included."""
    texts = [statement.text for statement in (*statements, *others)]
    both = [*statements, *others]
    shared, within = _Found(), _Found()
    for name in _ids(statements) & _ids(others):
        shared.add(name, name, 1.0, "same id")
    for statement in statements:
        for one, other in itertools.combinations(statement.problem_ids, 2):
            within.add(one, other, 1.0, "identical")
    for i, j, similarity in near_duplicates(texts, threshold=threshold, ngram=ngram):
        kind = _kind(texts[i], texts[j])
        if i < len(statements) <= j:
            shared.add_all(both[i], both[j], similarity, kind)
        elif j < len(statements):
            within.add_all(both[i], both[j], similarity, kind, is_ordered=False)
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
        shared=shared.sorted(),
        within=within.sorted(),
    )


class _Found:
    """Pairs of problems, each once with what is strongest about it."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], tuple[float, Kind]] = {}

    def add(self, one: str, other: str, similarity: float, kind: Kind) -> None:
        known = self._pairs.get((one, other))
        if known is None or (known[1] != "same id" and known[0] < similarity):
            self._pairs[one, other] = (similarity, kind)

    def add_all(
        self,
        one: Statement,
        other: Statement,
        similarity: float,
        kind: Kind,
        *,
        is_ordered: bool = True,
    ) -> None:
        for first, second in itertools.product(one.problem_ids, other.problem_ids):
            if not is_ordered and first > second:
                self.add(second, first, similarity, kind)
            elif first != second:
                self.add(first, second, similarity, kind)

    def sorted(self) -> tuple[SharedProblem, ...]:
        found = sorted(self._pairs.items(), key=lambda pair: (-pair[1][0], pair[0]))
        return tuple(
            SharedProblem(problem_id=one, other_id=other, similarity=similarity, kind=kind)
            for (one, other), (similarity, kind) in found
        )


def _ids(statements: Iterable[Statement]) -> set[str]:
    return {name for statement in statements for name in statement.problem_ids}


def _kind(one: str, other: str) -> Kind:
    if one == other:
        return "identical"
    return "same but for case and spacing" if normalise(one) == normalise(other) else "near"
