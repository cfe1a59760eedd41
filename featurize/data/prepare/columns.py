"""The job behind `critic prepare columns`: datasets with other column names become samples."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurize.data.fields import describe
from featurize.data.prepare.mapping import CONVENTIONS, PLAIN, ColumnMap, UsedColumns
from featurize.data.prepare.prepared import Counts, Prepared, refuse_own_source
from featurize.data.prepare.writers import ENDINGS, Row, sample_writer
from featurize.data.records import check_row, parse_line
from featurize.data.sources import Source, find_sources, read_lines
from featurize.errors import MAX_LISTED, CriticError, DataError, RowFault

COMMAND = "prepare columns"
# Raised when the rules change what comes out of the same files.
RULES_VERSION = 1
_REPORT_ROWS = 1000
_MEGABYTE = 1 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ColumnsJob:
    """What is read, where it is written, and what its columns mean."""

    sources: Sequence[str]  # files, globs or URIs
    out: Path  # a .jsonl or .parquet file for all of them, or a folder with a file for each
    columns: ColumnMap
    output_format: str = "jsonl"  # of the files in a folder
    cache_dir: Path | None = None  # for copies of what lies at a URI; None: the user's cache folder


def prepare_columns(
    job: ColumnsJob, *, overwrite: bool = False, progress: Progress | None = None
) -> Prepared:
    """Write the samples and a summary; files that lie there finished are not written again.

    `progress` is called with the megabytes read and those of all files.

    Raises:
        DataError: rows that cannot be samples; it tells of all, and nothing is written.
    """
    sources = find_sources(job.sources, job.cache_dir)
    folder, summary_path = _places(job.out)
    targets = _targets(job, sources)
    refuse_own_source(targets.keys(), [source.path for source in sources])
    prepared = Prepared.open(
        summary_path, COMMAND, _recipe(job, sources), targets=targets.keys(), overwrite=overwrite
    )
    if prepared.files.keys() == {target.name for target in targets}:
        return replace(prepared, was_up_to_date=True)
    left_out = {name for source in sources for name in _left_out(source, job.columns)}
    used = UsedColumns()
    counts = _write(job, targets, used, _Bytes.of(sources, progress))
    for target in targets:
        prepared = prepared.with_part(target.name, counts[target], target, folder)
    prepared.details.update(_details(used, left_out))
    prepared.save(summary_path)
    return prepared


def _places(out: Path) -> tuple[Path, Path]:
    """The folder that the samples are written into, and the file of their summary."""
    if out.suffix in ENDINGS:
        return out.parent, out.with_name(f"{out.name}.summary.json")
    if out.suffix in (".json", ".csv", ".gz", ".zst"):
        raise CriticError(
            f"--out {str(out)!r} has an unknown ending; known are {', '.join(ENDINGS)}, "
            "and a folder has none"
        )
    return out, out / "summary.json"


def _targets(job: ColumnsJob, sources: Sequence[Source]) -> dict[Path, list[Source]]:
    """Which file is made of which ones."""
    if job.out.suffix in ENDINGS:
        return {job.out: list(sources)}
    targets: dict[Path, list[Source]] = {}
    for source in sources:
        stem = Path(source.name).name.removesuffix(source.suffix)
        target = job.out / f"{stem}.{job.output_format}"
        if target in targets:
            raise CriticError(
                f"{targets[target][0].name} and {source.name}: both would become {target}; "
                f"prepare them apart, or both into one file, --out {job.out}.{job.output_format}"
            )
        targets[target] = [source]
    return targets


def _recipe(job: ColumnsJob, sources: Sequence[Source]) -> dict[str, Any]:
    return {
        "map": dict(sorted(job.columns.paths.items())),
        "correct values": sorted(job.columns.labels.correct),
        "incorrect values": sorted(job.columns.labels.incorrect),
        "rules_version": RULES_VERSION,
        "source files": {source.path: source.state for source in sources},
    }


def _left_out(source: Source, columns: ColumnMap) -> Iterator[str]:
    """Columns of a Parquet file that are not taken; refuses a map to one that is not there."""
    if source.suffix != ".parquet":
        return
    try:
        names = pq.read_schema(source.path).names
    except (pa.ArrowException, OSError):
        return  # reading it says so
    for target, path in columns.paths.items():
        if path not in names and path.partition(".")[0] not in names:
            raise CriticError(
                f"{source.name}: --map {target}={path}: there is no column {path!r}; "
                f"there are {', '.join(names)}"
            )
    known = {*PLAIN, *CONVENTIONS, "metadata"} | columns.columns
    yield from (name for name in names if name not in known)


def _write(
    job: ColumnsJob,
    targets: Mapping[Path, Sequence[Source]],
    used: UsedColumns,
    progress: "_Bytes",
) -> dict[Path, Counts]:
    """Write all targets, or none when any row is bad."""
    counts = {target: Counts() for target in targets}
    faults: list[str] = []
    num_faults = 0
    types = dict.fromkeys(job.columns.metadata, pa.string())
    with ExitStack() as stack:
        for target, sources in targets.items():
            write = stack.enter_context(sample_writer(target, metadata=types))
            for source in sources:
                for number, line in enumerate(read_lines(source, job.columns.columns), start=1):
                    progress.advance(len(line))
                    if not line or line.isspace():
                        continue
                    try:
                        for row in _to_rows(line, job.columns, used):
                            write(row)
                            counts[target].add(row["is_correct"])
                    except RowFault as fault:
                        num_faults += 1
                        if num_faults <= MAX_LISTED:
                            faults.append(f"{source.location(number)}: {fault}")
                progress.finish(source)
        if faults:
            raise DataError(faults, total=num_faults)
        if not sum(count.samples for count in counts.values()):
            raise DataError(f"{job.sources[0]}: holds no rows; the dataset needs at least one")
        used.check(job.columns)
    return counts


def _to_rows(line: bytes, columns: ColumnMap, used: UsedColumns) -> list[Row]:
    """The samples of one line, checked as every reader of samples does."""
    parsed = parse_line(line)
    if not isinstance(parsed, dict):
        raise RowFault(f"the row is {describe(parsed)}; every row must be one JSON object")
    mapped = columns.apply(parsed, used)
    # An id that the dataset does not give is left to the reader, who tells equal rows apart.
    ids = [name for name in ("problem_id", "task_id") if mapped.get(name) is not None]
    return [
        {
            "instruction": row.instruction,
            "input": row.input,
            "output": row.output,
            "is_correct": row.is_correct,
            **{name: getattr(row, name) for name in ids},
            "metadata": mapped["metadata"],
        }
        for row in (checked.sample for checked in check_row(mapped))
    ]


def _details(used: UsedColumns, left_out: Collection[str]) -> dict[str, Any]:
    details = {
        "taken as correct": used.describe(True),
        "taken as incorrect": used.describe(False),
        "taken as unlabelled": used.describe(None),
        "columns not taken": ", ".join(sorted(left_out)),
    }
    return {name: value for name, value in details.items() if value}


class _Bytes:
    """Reports how much has been read, in megabytes, now and then."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._finished = self._since = self._rows = 0

    @classmethod
    def of(cls, sources: Sequence[Source], progress: Progress | None) -> "_Bytes":
        """Of all these files."""
        return cls(sum(source.size for source in sources), progress)

    def advance(self, num_bytes: int) -> None:
        """One line more; of a compressed file it is longer than what was read."""
        self._since += num_bytes
        self._rows += 1
        if self._rows % _REPORT_ROWS == 0:
            self._report(min(self._finished + self._since, self._total))

    def finish(self, source: Source) -> None:
        """The whole file is read."""
        self._finished, self._since = self._finished + source.size, 0
        self._report(self._finished)

    def _report(self, done: int) -> None:
        if self._progress:
            self._progress(-(-done // _MEGABYTE), -(-self._total // _MEGABYTE))
