"""The job behind `critic prepare columns`: datasets with other column names become samples."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurize.data.fields import describe
from featurize.data.prepare.join import Join, JoinOptions
from featurize.data.prepare.mapping import CONVENTIONS, PLAIN, ColumnMap, UsedColumns
from featurize.data.prepare.paths import ColumnPath
from featurize.data.prepare.prepared import (
    ENDINGS,
    SUMMARY_FILE,
    Counts,
    Prepared,
    Progress,
    Row,
    sample_writer,
)
from featurize.data.prepare.rewriting import in_one_style, with_copies
from featurize.data.records import Sample, check_row, parse_line
from featurize.data.sources import Source, find_sources, read_lines
from featurize.errors import MAX_LISTED, CriticError, DataError, RowFault, kind_of

COMMAND = "prepare columns"
# Incremented when a change of the rules changes the result for the same files.
RULES_VERSION = 3
_REPORT_ROWS = 1000
_MEGABYTE = 1 << 20


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
    wanted = {*PLAIN, *CONVENTIONS, "metadata"} | job.columns.columns
    join = Join.read(job.join, wanted, job.cache_dir) if job.join else None
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
    used = UsedColumns()
    counts = _write(job, targets, used, join, _Megabytes(sources, progress))
    for target in targets:
        prepared = prepared.with_part(target.name, counts[target], target)
    details = {
        "taken as correct": used.describe(True),
        "taken as incorrect": used.describe(False),
        "taken as unlabelled": used.describe(None),
        "rows with an empty list": f"{used.num_empty:,}" if used.num_empty else "",
        "statements without a row": _unused(join) if join else "",
        "outputs rewritten": f"{used.num_normalised:,}" if job.normalise else "",
        "outputs left, not Python": f"{used.num_not_python:,}" if job.normalise else "",
        "rewritten copies": f"{used.num_copies:,}" if job.copies else "",
        "outputs without a copy": f"{used.num_not_rewritten:,}" if job.copies else "",
        "columns not taken": ", ".join(sorted(left_out)),
    }
    prepared.details.update({name: value for name, value in details.items() if value})
    prepared.save()
    return prepared


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


def _unused(join: Join) -> str:
    unused = len(join.rows) - len(join.used)
    return f"{unused:,} of {len(join.rows):,}" if unused else ""


def _recipe(job: ColumnsJob, sources: Sequence[Source], joined: Sequence[Source]) -> dict[str, Any]:
    join = {source.path: source.state for source in joined}
    return {
        **({"join": join, "on": job.join.on} if job.join else {}),
        **({"normalise": "python"} if job.normalise else {}),
        **({"copies": job.copies, "copies version": 2} if job.copies else {}),
        "map": {name: path.text for name, path in sorted(job.columns.paths.items())},
        "correct values": sorted(job.columns.labels.correct),
        "incorrect values": sorted(job.columns.labels.incorrect),
        "rules_version": RULES_VERSION,
        **({"conversations": True} if job.keeps_turns else {}),
        "source files": {source.path: source.state for source in sources},
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
    known = {*PLAIN, *CONVENTIONS, "metadata"} | job.columns.columns | _key_columns(job)
    yield from (name for name in names if name not in known)


def _key_columns(job: ColumnsJob) -> set[str]:
    if job.join is None:
        return set()
    return {ColumnPath.parse(job.join.on_rows).root, job.join.on_rows}


def _write(
    job: ColumnsJob,
    targets: Mapping[Path, Sequence[Source]],
    used: UsedColumns,
    join: Join | None,
    progress: "_Megabytes",
) -> dict[Path, Counts]:
    """Write all targets, or none if any row is bad."""
    counts = {target: Counts() for target in targets}
    faults: list[str] = []
    kinds: Counter[str] = Counter()
    names = [*job.columns.metadata, *(["rewrite"] if job.copies else [])]
    types = dict.fromkeys(names, pa.string())
    columns = job.columns.columns | _key_columns(job)
    with ExitStack() as stack:
        for target, sources in targets.items():
            write = stack.enter_context(sample_writer(target, metadata=types))
            for source, number, line in progress.read(sources, columns):
                try:
                    for row in _to_rows(line, job, used, join):
                        write(row)
                        counts[target].add(row["is_correct"])
                except RowFault as fault:
                    kinds[kind_of(str(fault))] += 1
                    if len(faults) < MAX_LISTED:
                        faults.append(f"{source.location(number)}: {fault}")
        if faults:
            raise DataError(faults, total=kinds.total(), kinds=kinds)
        if not any(count.samples for count in counts.values()):
            raise DataError(f"{job.sources[0]}: has no rows; the dataset needs at least one")
        job.columns.check(used)
    return counts


def _to_rows(line: bytes, job: ColumnsJob, used: UsedColumns, join: Join | None) -> list[Row]:
    """Convert one line to samples, checked like the rows of any dataset."""
    parsed = parse_line(line)
    if not isinstance(parsed, dict):
        raise RowFault(f"the row is {describe(parsed)}; every row must be one JSON object")
    mapped = job.columns.apply(join.apply(parsed) if join else parsed, used)
    rows = [row for one in mapped for row in _to_samples(one, job.keeps_turns)]
    if job.normalise:
        rows = [in_one_style(row, used) for row in rows]
    if job.copies:
        rows = [copy for row in rows for copy in with_copies(row, job.copies, used)]
    return rows


def _to_samples(mapped: Row, keeps_turns: bool) -> list[Row]:
    # Only ids that the dataset has: the others are assigned when the samples are read, different
    # ones to equal rows.
    ids = [name for name in ("problem_id", "task_id") if mapped.get(name) is not None]
    names = ("input", "output", "is_correct", *ids)
    return [
        {
            "instruction": _to_prompt(row),
            **{name: getattr(row, name) for name in names},
            "metadata": mapped["metadata"],
        }
        for row in (checked.sample for checked in check_row(mapped, keeps_turns=keeps_turns))
    ]


def _to_prompt(sample: Sample) -> str | list[dict[str, str]]:
    """Return the messages of a conversation, or the text that a prompt is."""
    if not sample.messages:
        return sample.instruction
    return [{"role": role, "content": text} for role, text in sample.messages]


class _Megabytes:
    """Reads the lines of files, and reports now and then how many megabytes that were."""

    def __init__(self, sources: Sequence[Source], progress: Progress | None) -> None:
        self._total, self._finished = sum(source.size for source in sources), 0
        self._progress = progress

    def read(
        self, sources: Sequence[Source], columns: Collection[str]
    ) -> Iterator[tuple[Source, int, bytes]]:
        """Yield every line that is not blank with its number, from 1."""
        for source in sources:
            num_bytes = 0
            for number, line in enumerate(read_lines(source, columns), start=1):
                num_bytes += len(line)
                if line and not line.isspace():
                    yield source, number, line
                if number % _REPORT_ROWS == 0:  # uncompressed, a line is longer than what was read
                    self._report(min(self._finished + num_bytes, self._total))
            self._finished += source.size
            self._report(self._finished)

    def _report(self, done: int) -> None:
        if self._progress:
            self._progress(-(-done // _MEGABYTE), -(-self._total // _MEGABYTE))
