"""The job behind `critic prepare split`: by problem, near-duplicates of a statement on one side."""

import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featurize.data.prepare.prepared import Counts, Prepared, refuse_own_source
from featurize.data.prepare.statements import group_problems, split_groups
from featurize.data.records import CheckedRow, check_row, parse_line
from featurize.data.sources import Source, find_sources, read_lines
from featurize.errors import CriticError, DataError, RowFault
from featurize.io.files import atomic_path

log = logging.getLogger(__name__)

COMMAND = "prepare split"
SUMMARY_FILE = "summary.json"
# Raised when the rules change what comes out of the same files.
RULES_VERSION = 1
_BLANK = -1
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class SplitJob:
    """What is split, into which shares, and what counts as a near-duplicate."""

    sources: Sequence[str]  # files, globs or URIs
    out_dir: Path
    valid: float = 0.1  # share of the problems
    test: float = 0.1
    seed: int = 42
    similarity: float = 0.8
    ngram: int = 5
    cache_dir: Path | None = None  # for copies of what lies at a URI; None: the user's cache folder

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
    """What the first reading keeps of the rows."""

    problems: dict[str, int] = field(default_factory=dict)  # id -> number
    counts: list[Counts] = field(default_factory=list)  # of each problem
    statements: list[tuple[int, str]] = field(default_factory=list)  # (problem, text), each once
    owners: list["array[int]"] = field(default_factory=list)  # of each file: problem of each line
    _seen: set[tuple[int, bytes]] = field(default_factory=set)

    def add(self, rows: Sequence[CheckedRow]) -> int:
        """Note the samples of a line, which are of one problem; returns its number."""
        problem = self.problems.setdefault(rows[0].sample.problem_id, len(self.problems))
        if problem == len(self.counts):
            self.counts.append(Counts(problems=1))
        for row in rows:
            self.counts[problem].add(row.sample.is_correct)
            if (problem, row.prompt_key) not in self._seen:
                self._seen.add((problem, row.prompt_key))
                self.statements.append((problem, f"{row.sample.instruction}\n{row.sample.input}"))
        return problem


def prepare_split(job: SplitJob, *, overwrite: bool = False) -> Prepared:
    """Write train.jsonl, valid.jsonl, test.jsonl and summary.json; rows are copied as they are."""
    sources = find_sources(job.sources, job.cache_dir)
    names = ["train", *(name for name, share in job.shares.items() if share > 0)]
    targets = {name: job.out_dir / f"{name}.jsonl" for name in names}
    refuse_own_source(targets.values(), [source.path for source in sources])
    path = job.out_dir / SUMMARY_FILE
    prepared = Prepared.open(
        path, COMMAND, _recipe(job, sources), targets=targets.values(), overwrite=overwrite
    )
    if prepared.files.keys() == {target.name for target in targets.values()}:
        return replace(prepared, was_up_to_date=True)
    scan = _scan(sources)
    log.info("comparing %d statements", len(scan.statements))
    groups = group_problems(
        scan.statements,
        num_problems=len(scan.problems),
        threshold=job.similarity,
        ngram=job.ngram,
    )
    ids = list(scan.problems)
    splits = split_groups(
        ([ids[problem] for problem in group] for group in groups),
        shares=job.shares,
        rest="train",
        seed=job.seed,
    )
    of_problems = [splits[problem_id] for problem_id in ids]
    largest = max(map(len, groups))
    for name in names:
        if name not in of_problems:
            raise CriticError(
                f"{sources[0].name}: {name} would get none of the {len(ids)} problems (the "
                f"largest group of near-duplicates has {largest}); change the shares"
            )
    _copy(sources, scan.owners, of_problems, targets)
    for name in names:
        chosen = [c for c, split in zip(scan.counts, of_problems, strict=True) if split == name]
        prepared = prepared.with_part(name, _add(chosen), targets[name], job.out_dir)
    prepared.details.update(_details(groups))
    prepared.save(path)
    return prepared


def _recipe(job: SplitJob, sources: Sequence[Source]) -> dict[str, Any]:
    return {
        "valid": job.valid,
        "test": job.test,
        "seed": job.seed,
        "similarity": job.similarity,
        "ngram": job.ngram,
        "rules_version": RULES_VERSION,
        "source files": {source.path: source.state for source in sources},
    }


def _scan(sources: Sequence[Source]) -> _Scan:
    scan = _Scan()
    for source in sources:
        owners = array("q")
        for number, line in enumerate(read_lines(source), start=1):
            try:
                is_blank = not line or line.isspace()
                owners.append(_BLANK if is_blank else scan.add(check_row(parse_line(line))))
            except RowFault as fault:
                raise DataError(f"{source.location(number)}: {fault}") from None
        scan.owners.append(owners)
    if not scan.problems:
        raise DataError(f"{sources[0].name}: holds no rows; the dataset needs at least one")
    return scan


def _copy(
    sources: Sequence[Source],
    owners: Sequence["array[int]"],
    splits: Sequence[str],
    targets: Mapping[str, Path],
) -> None:
    """Write every line into the file of its problem's split."""
    with ExitStack() as stack:
        writers: dict[str, Callable[[bytes], int]] = {}
        for name, target in targets.items():
            temporary = stack.enter_context(atomic_path(target))
            writers[name] = stack.enter_context(temporary.open("wb", buffering=1 << 20)).write
        for source, problems in zip(sources, owners, strict=True):
            if source.has_changed():
                raise DataError(f"{source.name}: has changed while it was split; start again")
            for line, problem in zip(read_lines(source), problems, strict=True):
                if problem != _BLANK:
                    write = writers[splits[problem]]
                    write(line.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r\n") + b"\n")


def _add(counts: Sequence[Counts]) -> Counts:
    names = ("problems", "correct", "incorrect", "unlabelled")
    return Counts(**{name: sum(getattr(count, name) for count in counts) for name in names})


def _details(groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    several = [len(group) for group in groups if len(group) > 1]
    return {
        "groups of near-duplicate statements": len(several),
        "problems in such groups": sum(several),
        "problems in the largest": max(several, default=0),
    }
