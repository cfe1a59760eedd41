"""The job behind `critic prepare codecontests`: from published Parquet files to samples."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurize.data.prepare.codecontests.files import find_splits, to_patterns
from featurize.data.prepare.codecontests.problems import (
    ContestProblem,
    Solution,
    count_problems,
    read_problems,
)
from featurize.data.prepare.codecontests.selection import select
from featurize.data.prepare.prepared import Counts, Prepared, describe_file
from featurize.data.prepare.settings import PrepareSettings
from featurize.data.prepare.writers import TEXT_METADATA, Row, sample_writer
from featurize.errors import CriticError

if TYPE_CHECKING:  # it brings transformers, which takes seconds and is rarely asked for
    from featurize.data.prepare.codecontests.tokens import TokenLimit

log = logging.getLogger(__name__)

COMMAND = "prepare codecontests"
SUMMARY_FILE = "summary.json"
# Raised when the rules change what comes out of the same files.
RULES_VERSION = 1
_METADATA = {**TEXT_METADATA, "cf_rating": pa.int32()}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CodeContestsJob:
    """What is read, where it is written, and what of it is taken."""

    source: str  # a folder, a glob, a file or a URI
    out_dir: Path
    settings: PrepareSettings
    split_files: Sequence[str] = ()  # options such as "train=part-*"; none: names as published
    token_limit: "TokenLimit | None" = None  # for settings.codecontests.max_tokens
    cache_dir: Path | None = None  # for copies of what lies at a URI; None: the user's cache folder


def prepare_codecontests(
    job: CodeContestsJob, *, overwrite: bool = False, progress: Progress | None = None
) -> Prepared:
    """Write a file a split and summary.json; a split that lies there finished is not made again.

    `progress` is called with the numbers of problems done and of all problems.
    """
    splits = find_splits(job.source, to_patterns(job.split_files), job.cache_dir)
    path = job.out_dir / SUMMARY_FILE
    targets = {split: job.out_dir / f"{split}.{job.settings.output_format}" for split in splits}
    prepared = Prepared.open(
        path, COMMAND, _recipe(job, splits), targets=targets.values(), overwrite=overwrite
    )
    missing = [split for split in splits if targets[split].name not in prepared.files]
    if not missing:
        log.info("%s is up to date", job.out_dir)
        return replace(prepared, was_up_to_date=True)
    sizes = {split: count_problems(splits[split]) for split in missing}
    done, total = 0, sum(sizes.values())
    for split in missing:
        report = (lambda count, before=done: progress(before + count, total)) if progress else None
        counts = _write_split(job, split, splits[split], targets[split], report)
        done += sizes[split]
        prepared = prepared.with_part(split, counts, targets[split], job.out_dir)
        prepared.save(path)  # what is done so far is not done again
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
            split: {path.name: describe_file(path) for path in paths}
            for split, paths in splits.items()
        },
    }


def _write_split(
    job: CodeContestsJob,
    split: str,
    paths: Sequence[Path],
    target: Path,
    progress: Callable[[int], None] | None,
) -> Counts:
    counts = Counts()
    seen: set[str] = set()
    num_read = 0
    with sample_writer(target, metadata=_METADATA) as write:
        for path in paths:
            for problem in read_problems(path):
                _write_problem(job, problem, seen, counts, write)
                num_read += 1
                if progress:
                    progress(num_read)
        if not counts.samples:
            reasons = counts.problems_left_out.most_common(1)
            why = f"{reasons[0][1]} problems {reasons[0][0]}" if reasons else "there are no rows"
            raise CriticError(
                f"{paths[0]}: {split} would hold no sample ({why}); change prepare.codecontests, "
                "or give other files"
            )
    return counts


def _write_problem(
    job: CodeContestsJob,
    problem: ContestProblem,
    seen: set[str],
    counts: Counts,
    write: Callable[[Row], None],
) -> None:
    if problem.problem_id in seen:
        counts.problems_left_out["that come again (same source and name)"] += 1
        counts.samples_left_out["of problems that come again"] += len(problem.solutions)
        return
    seen.add(problem.problem_id)
    settings = job.settings
    selection = select(problem, settings.codecontests, seed=settings.seed, fits=job.token_limit)
    counts.samples_left_out += selection.left_out
    if selection.refusal is not None:
        counts.problems_left_out[selection.refusal] += 1
        return
    counts.problems += 1
    is_rated = settings.codecontests.difficulty == "cf_rating"
    for solution in selection.kept:
        write(_to_row(problem, solution, is_rated=is_rated))
        counts.add(solution.is_correct)


def _to_row(problem: ContestProblem, solution: Solution, *, is_rated: bool) -> Row:
    rating = problem.cf_rating
    label = "c" if solution.is_correct else "i"
    return {
        "instruction": problem.statement,
        "input": "",
        "output": solution.text,
        "is_correct": solution.is_correct,
        "problem_id": problem.problem_id,
        # The place among the published solutions of this label: unique, and a way back to them.
        "task_id": f"{problem.problem_id}#{solution.language}#{label}{solution.number}",
        "metadata": {
            "source": problem.source,
            "language": solution.language,
            "difficulty": (rating and str(rating)) if is_rated else problem.difficulty,
            "cf_rating": rating,
        },
    }
