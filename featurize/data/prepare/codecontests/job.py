"""The job behind `critic prepare codecontests`: from published Parquet files to samples."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurize.data.prepare.codecontests.problems import (
    ContestProblem,
    Solution,
    count_problems,
    find_splits,
    read_problems,
    to_patterns,
)
from featurize.data.prepare.codecontests.selection import TokenLimit, select
from featurize.data.prepare.prepared import (
    SUMMARY_FILE,
    TEXT_METADATA,
    Counts,
    Prepared,
    Progress,
    Row,
    samples_written,
)
from featurize.data.prepare.settings import PrepareSettings
from featurize.errors import CriticError

COMMAND = "prepare codecontests"
# Incremented when a change of the rules changes the result for the same files.
RULES_VERSION = 1
_METADATA = {**TEXT_METADATA, "cf_rating": pa.int32()}


@dataclass(frozen=True, kw_only=True)
class CodeContestsJob:
    """The files to read, where to write samples, and which solutions to take."""

    source: str  # a folder, a glob, a file or a URI
    out_dir: Path
    settings: PrepareSettings
    split_files: Sequence[str] = ()  # options such as "train=part-*"; none: the published names
    token_limit: TokenLimit | None = None  # for settings.codecontests.max_tokens
    cache_dir: Path | None = None  # for copies of files at URIs; None: the user's cache folder


def prepare_codecontests(
    job: CodeContestsJob, *, overwrite: bool = False, progress: Progress | None = None
) -> Prepared:
    """Write a file per split and summary.json; a finished split is not made again.

    `progress` is called with the number of problems done and of all problems.
    """
    splits = find_splits(job.source, to_patterns(job.split_files), job.cache_dir)
    targets = {split: job.out_dir / f"{split}.{job.settings.output_format}" for split in splits}
    prepared = Prepared.open(
        job.out_dir / SUMMARY_FILE,
        COMMAND,
        _recipe(job, splits),
        targets=targets.values(),
        sources=[str(path) for paths in splits.values() for path in paths],
        overwrite=overwrite,
    )
    if prepared.was_up_to_date:
        return prepared
    missing = [split for split in splits if targets[split].name not in prepared.files]
    sizes = {split: count_problems(splits[split]) for split in missing}
    done, total = 0, sum(sizes.values())
    for split in missing:
        report = (lambda count, before=done: progress(before + count, total)) if progress else None
        counts = _write_split(job, split, splits[split], targets[split], report)
        done += sizes[split]
        prepared.add(split, counts, targets[split])
        prepared.save()  # a rerun does not repeat what is done so far
    return prepared


def _recipe(job: CodeContestsJob, splits: dict[str, list[Path]]) -> dict[str, Any]:
    settings = asdict(job.settings.codecontests)
    return {
        **{key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()},
        "seed": job.settings.seed,
        "output_format": job.settings.output_format,
        "tokenizer": job.token_limit.digest if job.token_limit else None,
        "rules_version": RULES_VERSION,
        "source files": {
            split: {path.name: _state(path) for path in paths} for split, paths in splits.items()
        },
    }


def _state(path: Path) -> list[int]:
    """Get the size and modification time, which identify the content of a file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _write_split(
    job: CodeContestsJob,
    split: str,
    paths: Sequence[Path],
    target: Path,
    progress: Callable[[int], None] | None,
) -> Counts:
    counts = Counts()
    rows = _read_rows(job, paths, counts, progress)
    with samples_written(target, rows, metadata=_METADATA):
        if not counts.samples:
            reasons = counts.problems_left_out.most_common(1)
            why = f"{reasons[0][1]} problems {reasons[0][0]}" if reasons else "there are no rows"
            raise CriticError(
                f"{paths[0]}: {split} would have no sample ({why}); change prepare.codecontests, "
                "or give other files"
            )
    return counts


def _read_rows(
    job: CodeContestsJob,
    paths: Sequence[Path],
    counts: Counts,
    progress: Callable[[int], None] | None,
) -> Iterator[Row]:
    """Yield the samples of all problems, and count these and what is left out."""
    settings = job.settings
    seen: set[str] = set()
    problems = (problem for path in paths for problem in read_problems(path))
    for number, problem in enumerate(problems, start=1):
        if problem.problem_id in seen:
            counts.problems_left_out["that are duplicates (same source and name)"] += 1
            counts.samples_left_out["of duplicate problems"] += len(problem.solutions)
        else:
            seen.add(problem.problem_id)
            found = select(problem, settings.codecontests, seed=settings.seed, fits=job.token_limit)
            counts.samples_left_out += found.left_out
            if found.refusal is None:
                counts.problems += 1
            else:
                counts.problems_left_out[found.refusal] += 1
            for solution in found.kept:
                counts.add(solution.is_correct)
                is_rated = settings.codecontests.difficulty == "cf_rating"
                yield _to_row(problem, solution, is_rated=is_rated)
        if progress:
            progress(number)


def _to_row(problem: ContestProblem, solution: Solution, *, is_rated: bool) -> Row:
    rating = problem.cf_rating
    label = "c" if solution.is_correct else "i"
    return {
        "instruction": problem.statement,
        "input": "",
        "output": solution.text,
        "is_correct": solution.is_correct,
        "problem_id": problem.problem_id,
        # The number is unique for its label, and identifies the published solution.
        "task_id": f"{problem.problem_id}#{solution.language}#{label}{solution.number}",
        "metadata": {
            "source": problem.source,
            "language": solution.language,
            "difficulty": (rating and str(rating)) if is_rated else problem.difficulty,
            "cf_rating": rating,
        },
    }
