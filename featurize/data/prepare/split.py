"""The job behind `critic prepare split`: by problem, near-duplicates of a statement on one side."""

import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featurize.data.near_duplicates import near_duplicates, normalise
from featurize.data.prepare.prepared import (
    SUMMARY_FILE,
    Counts,
    Prepared,
    read_row_lines,
    read_rows,
)
from featurize.data.records import CheckedRow, check_row
from featurize.data.sources import Source, find_sources
from featurize.errors import CriticError, DataError, RowFault
from featurize.io.files import atomic_path

log = logging.getLogger(__name__)

COMMAND = "prepare split"
REST = "train"
"""The split that gets the problems that no other split takes."""
# Incremented when a change of the rules changes the result for the same files.
RULES_VERSION = 1
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class SplitJob:
    """The files to split, the shares, and what counts as a near-duplicate."""

    sources: Sequence[str]  # files, globs or URIs
    out_dir: Path
    valid: float = 0.1  # share of the problems
    test: float = 0.1
    seed: int = 42
    similarity: float = 0.8
    ngram: int = 5
    cache_dir: Path | None = None  # for copies of files at URIs; None: the user's cache folder
    keeps_turns: bool = False  # prompts may be conversations

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if not 0 <= share < 1:
                raise CriticError(f"--{name} is {share:g}; give a share from 0 to below 1")
        if sum(self.shares.values()) >= 1:
            raise CriticError(
                f"--valid {self.valid:g} and --test {self.test:g} leave nothing to train on; "
                "lower one of them"
            )

    @property
    def shares(self) -> dict[str, float]:
        """Share of the problems of every split but train, which gets the rest."""
        return {"valid": self.valid, "test": self.test}


@dataclass(kw_only=True)
class _Scan:
    """The result of the first pass over the rows."""

    problems: dict[str, int] = field(default_factory=dict)  # id -> number
    labels: list[Counter[bool | None]] = field(default_factory=list)  # of each problem
    statements: dict[tuple[int, bytes], str] = field(default_factory=dict)  # (problem, key) -> text
    owners: "array[int]" = field(default_factory=lambda: array("q"))  # the problem of each row

    def add(self, rows: Sequence[CheckedRow]) -> None:
        """Add the samples of a row, all of one problem."""
        problem = self.problems.setdefault(rows[0].problem_id, len(self.problems))
        if problem == len(self.labels):
            self.labels.append(Counter())
        self.owners.append(problem)
        for row in rows:
            self.labels[problem][row.is_correct] += 1
            if (problem, row.prompt.key) not in self.statements:
                text = f"{row.prompt.text}\n{row.prompt.input}"
                self.statements[problem, row.prompt.key] = text


def prepare_split(job: SplitJob, *, overwrite: bool = False) -> Prepared:
    """Write train.jsonl, valid.jsonl, test.jsonl and summary.json; rows are copied unchanged."""
    sources = find_sources(job.sources, job.cache_dir)
    names = [REST, *(name for name, share in job.shares.items() if share > 0)]
    targets = {name: job.out_dir / f"{name}.jsonl" for name in names}
    prepared = Prepared.open(
        job.out_dir / SUMMARY_FILE,
        COMMAND,
        _recipe(job, sources),
        targets=targets.values(),
        sources=[source.path for source in sources],
        overwrite=overwrite,
    )
    if prepared.was_up_to_date:
        return prepared
    scan = _scan(sources, job.keeps_turns)
    log.info("comparing %d statements", len(scan.statements))
    groups = group_problems(
        [(problem, text) for (problem, _), text in scan.statements.items()],
        num_problems=len(scan.problems),
        threshold=job.similarity,
        ngram=job.ngram,
    )
    splits = _split(job, list(scan.problems), groups)
    for name in names:
        if name not in splits:
            raise CriticError(
                f"{sources[0].name}: {name} would get none of the {len(splits)} problems (the "
                f"largest group of near-duplicates has {max(map(len, groups))}); change the shares"
            )
    _copy(sources, scan.owners, splits, targets)
    for name in names:
        labels = [c for c, split in zip(scan.labels, splits, strict=True) if split == name]
        prepared.add(name, _to_counts(labels), targets[name])
    prepared.details.update(_describe(groups))
    prepared.save()
    return prepared


def _recipe(job: SplitJob, sources: Sequence[Source]) -> dict[str, Any]:
    settings = ("valid", "test", "seed", "similarity", "ngram")
    return {
        **{name: getattr(job, name) for name in settings},
        "rules_version": RULES_VERSION,
        **({"conversations": True} if job.keeps_turns else {}),
        "source files": {source.path: source.state for source in sources},
    }


def _scan(sources: Sequence[Source], keeps_turns: bool) -> _Scan:
    scan = _Scan()
    for place, row in read_rows(sources):
        try:
            scan.add(check_row(row, keeps_turns=keeps_turns))
        except RowFault as fault:
            raise DataError(f"{place}: {fault}") from None
    if not scan.problems:
        raise DataError(f"{sources[0].name}: has no rows; the dataset needs at least one")
    return scan


def group_problems(
    statements: Sequence[tuple[int, str]], *, num_problems: int, threshold: float, ngram: int
) -> list[list[int]]:
    """Group the problems 0 .. num_problems - 1 by near-duplicate statements, directly or in chains.

    `statements` are (problem, text); a problem may have several. Groups are in the order of their
    first problem.
    """
    owners: dict[str, int] = {}
    links = [(problem, owners.setdefault(normalise(text), problem)) for problem, text in statements]
    problems = list(owners.values())
    alike = near_duplicates(list(owners), threshold=threshold, ngram=ngram)
    links += [(problems[first], problems[second]) for first, second, _ in alike]
    rows, columns = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(num_problems, num_problems))
    groups: dict[int, list[int]] = {}
    for problem, component in enumerate(connected_components(graph, directed=False)[1]):
        groups.setdefault(component, []).append(problem)
    return list(groups.values())


def _split(job: SplitJob, ids: Sequence[str], groups: Sequence[Sequence[int]]) -> list[str]:
    """Draw the split of each problem."""
    sizes = {name: round(share * len(ids)) for name, share in job.shares.items()}
    named = [[ids[problem] for problem in group] for group in groups]
    splits = split_groups(named, sizes=sizes, rest=REST, seed=job.seed)
    return [splits[problem_id] for problem_id in ids]


def split_groups(
    groups: Iterable[Sequence[str]], *, sizes: Mapping[str, int], rest: str, seed: int
) -> dict[str, str]:
    """Give every problem a split, the same one within a group; `groups` hold problem ids.

    Groups are ordered by a hash of the seed and their smallest id, so that the order of the rows
    does not matter. Each goes to the first split that has room for all of it, else to `rest`.
    """
    room = dict(sizes)
    splits: dict[str, str] = {}
    for group in sorted(groups, key=lambda group: _rank(min(group), seed)):
        chosen = next((name for name in room if len(group) <= room[name]), rest)
        if chosen in room:
            room[chosen] -= len(group)
        splits.update(dict.fromkeys(group, chosen))
    return splits


def to_sizes(fractions: Mapping[str, float], num_problems: int) -> dict[str, int]:
    """Cut a number of problems at fractions that add up to 1; none is lost to rounding."""
    sizes = {}
    share, start = 0.0, 0
    for name, fraction in fractions.items():
        share += fraction
        stop = max(start, round(share * num_problems)) if fraction > 0 else start
        sizes[name], start = stop - start, stop
    return sizes


def _rank(problem_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{problem_id}".encode()).digest()


def _copy(
    sources: Sequence[Source],
    owners: Sequence[int],
    splits: Sequence[str],
    targets: Mapping[str, Path],
) -> None:
    """Write every row into the file of its problem's split."""
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name, target in targets.items():
            temporary = stack.enter_context(atomic_path(target))
            files[name] = stack.enter_context(temporary.open("wb", buffering=1 << 20))
        for line, problem in zip(_read_unchanged(sources), owners, strict=True):
            files[splits[problem]].write(
                line.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r\n") + b"\n"
            )


def _read_unchanged(sources: Sequence[Source]) -> Iterator[bytes]:
    for source in sources:
        if source.has_changed():
            raise DataError(f"{source.name}: has changed while it was split; start again")
        yield from (line for _, line in read_row_lines(source))


def _to_counts(labels: Sequence[Counter[bool | None]]) -> Counts:
    counts = Counts(problems=len(labels))
    for counter in labels:
        for label, number in counter.items():
            counts.add(label, number)
    return counts


def _describe(groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    several = [len(group) for group in groups if len(group) > 1]
    return {
        "groups of near-duplicate statements": len(several),
        "problems in such groups": sum(several),
        "problems in the largest": max(several, default=0),
    }
