"""The job behind `critic prepare columns`: datasets with other column names become samples."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from featurize.data.fields import optional_scalar
from featurize.data.prepare.mapping import CONVENTIONS, PLAIN, ColumnMap, UsedColumns
from featurize.data.prepare.paths import MISSING, ColumnPath
from featurize.data.prepare.prepared import (
    ENDINGS,
    SUMMARY_FILE,
    Counts,
    Prepared,
    Progress,
    Row,
    read_row_lines,
    read_rows,
    samples_written,
    to_row,
)
from featurize.data.prepare.rewriting import in_one_style, with_copies
from featurize.data.records import check_row
from featurize.data.sources import Source, find_sources
from featurize.errors import MAX_LISTED, CriticError, DataError, RowFault, kind_of, shorten

COMMAND = "prepare columns"
# Incremented when a change of the rules changes the result for the same files.
RULES_VERSION = 3
_REPORT_ROWS = 1000
_MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """A file with a row for each key, and the columns that hold the key."""

    file: str  # a file, glob or URI
    on: str  # as the user wrote the columns
    on_rows: ColumnPath
    on_file: ColumnPath

    @classmethod
    def of(cls, file: str | None, on: str | None) -> "JoinOptions | None":
        """Read --join and --on, which belong together: a column, or "of the rows=of the file".

        Raises:
            CriticError: one of the two is missing, or a column is not named or has several values.
        """
        if file is None and on is None:
            return None
        if file is None or on is None:
            raise CriticError(
                "--join and --on belong together; write e.g. --join tasks.jsonl --on task_id"
            )
        of_rows, equals, of_file = on.partition("=")
        sides = (of_rows, of_file if equals else of_rows)
        on_rows, on_file = (ColumnPath.parse(side.strip()) for side in sides)
        for path in (on_rows, on_file):
            if not path.column or path.item_parts is not None:
                raise CriticError(f"--on {on!r} names no column; write e.g. --on task_id")
        return cls(file=file, on=on, on_rows=on_rows, on_file=on_file)


@dataclass(frozen=True, kw_only=True)
class ColumnsJob:
    """The files to read, where to write samples, and what the columns mean."""

    sources: Sequence[str]  # files, globs or URIs
    out: Path  # a .jsonl or .parquet file for all of them, or a folder with a file for each
    columns: ColumnMap
    output_format: str = "jsonl"  # of the files in a folder
    join: JoinOptions | None = None  # statements of the rows in another file
    normalise: bool = False  # rewrite outputs that are Python with ast.unparse
    copies: int = 0  # rewritten ones to add for each output that is Python
    cache_dir: Path | None = None  # for copies of files at URIs; None: the user's cache folder
    keeps_turns: bool = False  # prompts may be conversations; they are written as such


def prepare_columns(
    job: ColumnsJob, *, overwrite: bool = False, progress: Progress | None = None
) -> Prepared:
    """Write the samples and a summary; finished files are not written again.

    `progress` is called with the megabytes read and those of all files.

    Raises:
        DataError: rows that cannot be samples, all of them listed; nothing is written.
    """
    sources = find_sources(job.sources, job.cache_dir)
    targets = _find_targets(job, sources)
    join = Join.read(job) if job.join else None
    joined = join.sources if join else []
    prepared = Prepared.open(
        _summary_path(job.out),
        COMMAND,
        _recipe(job, sources, joined),
        targets=targets.keys(),
        sources=[source.path for source in [*sources, *joined]],
        overwrite=overwrite,
    )
    if prepared.was_up_to_date:
        return prepared
    left_out = {name for source in sources for name in _columns_left_out(source, job)}
    conversion = _Conversion(job, join, sources, progress)
    counts, used = conversion.write(targets), conversion.used
    for target in targets:
        prepared.add(target.name, counts[target], target)
    details = {
        "taken as correct": used.describe(True),
        "taken as incorrect": used.describe(False),
        "taken as unlabelled": used.describe(None),
        "rows with an empty list": f"{used.num_empty:,}" if used.num_empty else "",
        "statements without a row": join.describe_unused() if join else "",
        "outputs rewritten": f"{used.num_normalised:,}" if job.normalise else "",
        "outputs left, not Python": f"{used.num_not_python:,}" if job.normalise else "",
        "rewritten copies": f"{used.num_copies:,}" if job.copies else "",
        "outputs without a copy": f"{used.num_not_rewritten:,}" if job.copies else "",
        "columns not taken": ", ".join(sorted(left_out)),
    }
    prepared.details.update({name: value for name, value in details.items() if value})
    prepared.save()
    return prepared


@dataclass(frozen=True, kw_only=True)
class Join:
    """The rows of the joined files by key, and which keys were used."""

    options: JoinOptions
    sources: list[Source]
    columns: set[str]  # those that are read
    rows: dict[str, Row]
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, job: ColumnsJob) -> Self:
        """Read the columns of all files that a job joins.

        Raises:
            DataError: a row has no key, or two rows have one key; with file and line.
        """
        assert job.join is not None
        sources, path = find_sources(job.join.file, job.cache_dir), job.join.on_file
        columns = _known_columns(job)
        wanted = {*columns, path.root, path.column}
        rows: dict[str, Row] = {}
        places: dict[str, str] = {}
        for place, whole in read_rows(sources, wanted):
            try:
                key = _key_of(whole, path)
            except RowFault as fault:
                raise DataError(f"{place}: {fault}") from None
            row = {name: value for name, value in whole.items() if name in wanted}
            if rows.setdefault(key, row) != row:
                raise DataError(
                    f"{place}: {path.text!r} {shorten(key)} is taken by {places[key]} with "
                    "other values; keep one row for each"
                )
            places.setdefault(key, place)
        return cls(options=job.join, sources=sources, columns=columns, rows=rows)

    def apply(self, row: Row) -> Row:
        """Add the columns of the joined row; its key is the problem unless the row names one.

        Raises:
            RowFault: the row has no key, no row has this key, or both have a column.
        """
        name = self.options.on_rows.text
        key = _key_of(row, self.options.on_rows)
        other = self.rows.get(key)
        if other is None:
            raise RowFault(
                f"{name!r} is {shorten(key)}, which no row of {self.options.file} has; complete "
                "that file or drop the row"
            )
        self.used.add(key)
        own = _without_task_id(row) if name == "task_id" else row
        for column in self.columns & own.keys() & other.keys() - {name}:
            if own[column] != other[column]:
                raise RowFault(
                    f"{column!r} is {shorten(own[column], 36)} here and "
                    f"{shorten(other[column], 36)} in {self.options.file}; rename one of them"
                )
        joined = {**_without_task_id(other), **own}
        return joined if joined.get("problem_id") is not None else {**joined, "problem_id": key}

    def describe_unused(self) -> str:
        """Count the rows that no key asked for; empty for none."""
        unused = len(self.rows) - len(self.used)
        return f"{unused:,} of {len(self.rows):,}" if unused else ""


def _without_task_id(row: Row) -> Row:
    return {column: value for column, value in row.items() if column != "task_id"}


def _key_of(row: Row, path: ColumnPath) -> str:
    value = path.find(row)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas writes whole numbers in a column with gaps
    key = None if value is MISSING else optional_scalar({"on": value}, "on", "--on")
    if key is None:
        raise RowFault(f"{path.text!r} is missing, which --on needs; correct the column's name")
    return key


def _summary_path(out: Path) -> Path:
    if out.suffix in ENDINGS:
        return out.with_name(f"{out.name}.summary.json")
    if out.suffix in (".json", ".csv", ".gz", ".zst"):
        raise CriticError(
            f"--out {str(out)!r} has an unknown ending; known are {', '.join(ENDINGS)}, "
            "and a folder has none"
        )
    return out / SUMMARY_FILE


def _find_targets(job: ColumnsJob, sources: Sequence[Source]) -> dict[Path, list[Source]]:
    """Choose the files to write, each with the files that it is made from."""
    if job.out.suffix in ENDINGS:
        return {job.out: list(sources)}
    targets: dict[Path, list[Source]] = {}
    for source in sources:
        stem = Path(source.name).name.removesuffix(source.suffix)
        target = job.out / f"{stem}.{job.output_format}"
        if target in targets:
            raise CriticError(
                f"{targets[target][0].name} and {source.name}: both would become {target}; prepare "
                f"them separately, or both into one file, --out {job.out}.{job.output_format}"
            )
        targets[target] = [source]
    return targets


def _recipe(job: ColumnsJob, sources: Sequence[Source], joined: Sequence[Source]) -> dict[str, Any]:
    def states(files: Sequence[Source]) -> dict[str, Any]:
        return {source.path: source.state for source in files}

    return {
        **({"join": states(joined), "on": job.join.on} if job.join else {}),
        **({"normalise": "python"} if job.normalise else {}),
        **({"copies": job.copies, "copies version": 2} if job.copies else {}),
        "map": {name: path.text for name, path in sorted(job.columns.paths.items())},
        "correct values": sorted(job.columns.labels.correct),
        "incorrect values": sorted(job.columns.labels.incorrect),
        "rules_version": RULES_VERSION,
        **({"conversations": True} if job.keeps_turns else {}),
        "source files": states(sources),
    }


def _columns_left_out(source: Source, job: ColumnsJob) -> Iterator[str]:
    """List the columns of a Parquet file that are not taken; raise if a mapped one is missing."""
    if source.suffix != ".parquet":
        return
    try:
        names = pq.read_schema(source.path).names
    except (pa.ArrowException, OSError):
        return  # reading the rows raises with a better message
    for target, path in job.columns.paths.items():
        if job.join is None and path.column not in names and path.root not in names:
            raise CriticError(
                f"{source.name}: --map {target}={path.text}: there is no column {path.column!r}; "
                f"there are {', '.join(names)}"
            )
    known = _known_columns(job) | _key_columns(job)
    yield from (name for name in names if name not in known)


def _known_columns(job: ColumnsJob) -> set[str]:
    return {*PLAIN, *CONVENTIONS, "metadata"} | job.columns.columns


def _key_columns(job: ColumnsJob) -> set[str]:
    return {job.join.on_rows.root, job.join.on_rows.column} if job.join else set()


class _Conversion:
    """One pass over the rows: what they become, how many they are, and what is wrong with them."""

    def __init__(
        self,
        job: ColumnsJob,
        join: Join | None,
        sources: Sequence[Source],
        progress: Progress | None,
    ) -> None:
        self.used = UsedColumns()
        self._job, self._join = job, join
        self._progress = progress
        self._read, self._total = 0, sum(source.size for source in sources)  # bytes
        self._faults: list[str] = []
        self._kinds: Counter[str] = Counter()

    def write(self, targets: Mapping[Path, Sequence[Source]]) -> dict[Path, Counts]:
        """Write all targets, or none if any row is bad."""
        job = self._job
        counts = {target: Counts() for target in targets}
        names = [*job.columns.metadata, *(["rewrite"] if job.copies else [])]
        types = dict.fromkeys(names, pa.string())
        with ExitStack() as stack:
            for target, sources in targets.items():
                rows = self._convert(sources, counts[target])
                stack.enter_context(samples_written(target, rows, metadata=types))
            if self._faults:
                raise DataError(self._faults, total=self._kinds.total(), kinds=self._kinds)
            if not any(count.samples for count in counts.values()):
                raise DataError(f"{job.sources[0]}: has no rows; the dataset needs at least one")
            job.columns.check(self.used)
        return counts

    def _convert(self, sources: Sequence[Source], counts: Counts) -> Iterator[Row]:
        """Yield the samples of all rows that are not bad."""
        for source in sources:
            for number, line in self._read_lines(source):
                try:
                    rows = self._to_rows(line)
                except RowFault as fault:
                    self._kinds[kind_of(str(fault))] += 1
                    if len(self._faults) < MAX_LISTED:
                        self._faults.append(f"{source.location(number)}: {fault}")
                    continue
                for row in rows:
                    counts.add(row["is_correct"])
                    yield row

    def _read_lines(self, source: Source) -> Iterator[tuple[int, bytes]]:
        """Read a file, and report now and then how many megabytes that were."""
        columns = self._job.columns.columns | _key_columns(self._job)
        end = self._read + source.size
        for number, line in read_row_lines(source, columns):
            yield number, line
            # Uncompressed, a line is longer than what was read.
            self._read = min(self._read + len(line), end)
            if number % _REPORT_ROWS == 0:
                self._report()
        self._read = end
        self._report()

    def _report(self) -> None:
        if self._progress:
            self._progress(-(-self._read // _MEGABYTE), -(-self._total // _MEGABYTE))

    def _to_rows(self, line: bytes) -> list[Row]:
        """Convert one line to samples, checked like the rows of any dataset."""
        job, row = self._job, to_row(line)
        mapped = job.columns.apply(self._join.apply(row) if self._join else row, self.used)
        rows = [row for one in mapped for row in _to_samples(one, job.keeps_turns)]
        if job.normalise:
            rows = [in_one_style(row, self.used) for row in rows]
        if job.copies:
            rows = [copy for row in rows for copy in with_copies(row, job.copies, self.used)]
        return rows


def _to_samples(mapped: Row, keeps_turns: bool) -> Iterator[Row]:
    # Only ids that the dataset has: the others are assigned when the samples are read, different
    # ones to equal rows.
    ids = [name for name in ("problem_id", "task_id") if mapped.get(name) is not None]
    for checked in check_row(mapped, keeps_turns=keeps_turns):
        sample = checked.sample
        turns = [{"role": role, "content": text} for role, text in sample.messages]
        fields = {name: getattr(sample, name) for name in ("input", "output", "is_correct", *ids)}
        yield {
            "instruction": turns or sample.instruction,
            **fields,
            "metadata": mapped["metadata"],
        }
