"""Finds, for one problem, programs that pass its tests and programs that give wrong results.

Every incorrect program is one mutation of a correct one in the dataset: both labels then have the
same rewrites, so style is no signal of the label.
"""

import ast
import builtins
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Protocol

from featurize.data.prepare.from_tests.edits import EditedProgram, edit_once, normalise
from featurize.data.prepare.from_tests.mutations import MUTATIONS
from featurize.data.prepare.from_tests.problems import Problem
from featurize.data.prepare.from_tests.rewrites_expressions import EXPRESSION_REWRITES
from featurize.data.prepare.from_tests.rewrites_loops import LOOP_REWRITES
from featurize.data.prepare.from_tests.rewrites_statements import STATEMENT_REWRITES
from featurize.data.prepare.from_tests.sandbox import Outcome, Verdict
from featurize.data.prepare.settings import PrepareTestsSettings

REWRITES = {**EXPRESSION_REWRITES, **STATEMENT_REWRITES, **LOOP_REWRITES}

# Attempts before a problem is considered exhausted.
_REWRITE_ATTEMPTS = 8
_MUTATION_ATTEMPTS = 6
# Mutants verified for each one wanted, so that there is a choice between lengths.
_MUTANTS_TO_CHOOSE_FROM = 3
# Costs in characters of length difference: of repeating a kind of mutation, and of one more mutant
# on the longer or the shorter side.
_REPETITION_PENALTY = 3
_SIDE_PENALTY = 6

# Shares of the allowed CPU time. A problem's programs get the smallest that is this factor above
# the time of the reference. Endless loops then cost little, and since even a slow machine does not
# slow a program down fourfold, time decides for no rewrite and hardly any mutant.
_TIME_SHARES = (0.05, 0.25, 1.0)
_TIME_FACTOR = 4


class Run(Protocol):
    """Runs a program against the tests of the problem."""

    def __call__(self, *, program: str, cpu_seconds: float, is_apart: bool) -> Outcome:
        """Run the program for at most this time, in a process apart from the tests or with them."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A program that passes, and the chosen mutants of it."""

    source: str
    rewrites: tuple[str, ...]
    mutants: tuple[EditedProgram, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemVariants:
    """The programs found for one problem."""

    variants: tuple[Variant, ...] = ()
    refusal: str | None = None  # why there are none
    counts: dict[str, int] = field(default_factory=dict)  # programs run, by how they ended
    is_apart: bool = True  # whether tests and programs ran in processes of their own


class _Finder:
    """Runs the candidates of one problem, each once, and counts how they end."""

    def __init__(self, problem: Problem, run: Run, rng: random.Random, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self._run = run
        self._seen: set[str] = set()
        tree = ast.parse(problem.reference)
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._functions = frozenset(defined) - problem.helpers
        tests = list(ast.walk(ast.parse(problem.tests)))
        self._keywords = frozenset(
            node.arg for node in tests if isinstance(node, ast.keyword) and node.arg
        )
        # Apart, tests have Python's own `sum`, not one that the program defines.
        used = {node.id for node in tests if isinstance(node, ast.Name)}
        self.is_apart = not any(hasattr(builtins, name) for name in defined & used)

    def run(self, source: str) -> Outcome | None:
        """Run a program; None if it was run before."""
        if source in self._seen:
            self.counts["duplicates"] += 1
            return None
        self._seen.add(source)
        return self._count(self._run_once(source))

    def run_reference(self, source: str) -> Outcome:
        """Run the first program; it decides whether these tests can be in a process of their own.

        They cannot if they give the program objects of their own classes, for example.
        """
        self._seen.add(source)
        outcome = self._run_once(source)
        if self.is_apart and outcome.verdict is not Verdict.PASSED:
            self.is_apart = False
            outcome = self._run_once(source)
        return self._count(outcome)

    def _run_once(self, source: str) -> Outcome:
        return self._run(program=source, cpu_seconds=self.cpu_seconds, is_apart=self.is_apart)

    def _count(self, outcome: Outcome) -> Outcome:
        self.counts["candidates"] += 1
        self.counts[outcome.verdict.value] += 1
        return outcome

    def ends(self, source: str, verdict: Verdict) -> bool:
        """Whether a program is new and ends in this way."""
        outcome = self.run(source)
        return outcome is not None and outcome.verdict is verdict

    def rewrite(self, source: str, count: int) -> Variant:
        """Apply up to `count` rewrites, without a run."""
        names: list[str] = []
        for _ in range(count):
            edited = edit_once(
                source,
                REWRITES,
                functions=self._functions,
                keywords=self._keywords,
                rng=self.rng,
            )
            if edited is None:
                break
            source = edited.source
            names.append(edited.rule)
        return Variant(source=source, rewrites=tuple(names))

    def passing(self, reference: str, wanted: int, max_rewrites: int) -> list[Variant]:
        """Find up to `wanted` variants that pass, the reference first."""
        found = [Variant(source=reference, rewrites=())]
        for _ in range(_REWRITE_ATTEMPTS * wanted):
            if len(found) == wanted:
                break
            variant = self.rewrite(reference, self.rng.randint(1, max_rewrites))
            if variant.rewrites and self.ends(variant.source, Verdict.PASSED):
                found.append(variant)
        return found

    def mutants(self, source: str, wanted: int) -> list[EditedProgram]:
        """Find up to `wanted` mutants that give wrong results."""
        found: list[EditedProgram] = []
        for _ in range(_MUTATION_ATTEMPTS * wanted):
            if len(found) == wanted:
                break
            mutant = edit_once(source, MUTATIONS, functions=self._functions, rng=self.rng)
            if mutant is None:
                break
            if self.ends(mutant.source, Verdict.WRONG):
                found.append(mutant)
        return found


def find_variants(
    problem: Problem, settings: PrepareTestsSettings, *, run: Run, rng: random.Random
) -> ProblemVariants:
    """Find correct variants with their mutants: the numbers asked for, or equally fewer of both."""
    try:
        reference = normalise(problem.reference)
        finder = _Finder(problem, run, rng, settings.cpu_seconds)
    except (SyntaxError, ValueError):
        return ProblemVariants(refusal="reference or tests do not parse")
    outcome = finder.run_reference(reference)
    limit = _time_limit(outcome.cpu_seconds, settings.cpu_seconds)
    variants: tuple[Variant, ...] = ()
    refusal = None
    if outcome.verdict is not Verdict.PASSED:
        refusal = f"reference does not pass ({outcome.verdict.value}: {outcome.detail})"
    elif limit is None:
        seconds = settings.cpu_seconds / _TIME_FACTOR
        refusal = f"reference takes more than {seconds:g} s of CPU time"
    else:
        finder.cpu_seconds = limit
        variants = _find_variants(finder, reference, settings)
        if not variants:
            refusal = "no wrong results: every mutant passes, crashes or never ends"
    return ProblemVariants(
        variants=variants,
        refusal=refusal,
        counts=dict(finder.counts),
        is_apart=finder.is_apart,
    )


def have_same_labels(result: ProblemVariants, run: Run, cpu_seconds: float) -> bool:
    """Whether all programs end as before when they are run in another way."""
    expected = {variant.source: Verdict.PASSED for variant in result.variants}
    for variant in result.variants:
        expected |= {mutant.source: Verdict.WRONG for mutant in variant.mutants}
    return all(
        run(program=source, cpu_seconds=cpu_seconds, is_apart=result.is_apart).verdict is verdict
        for source, verdict in expected.items()
    )


def _time_limit(reference_seconds: float, cpu_seconds: float) -> float | None:
    """Choose what the problem's programs may take; None if the reference is too slow."""
    limits = [share * cpu_seconds for share in _TIME_SHARES]
    return next((limit for limit in limits if limit >= _TIME_FACTOR * reference_seconds), None)


def _find_variants(
    finder: _Finder, reference: str, settings: PrepareTestsSettings
) -> tuple[Variant, ...]:
    correct, incorrect = settings.correct, settings.incorrect
    # One more than asked for, as a reserve.
    passing = finder.passing(reference, correct + 1, settings.max_rewrites)
    num_mutants = -(-incorrect // correct) * _MUTANTS_TO_CHOOSE_FROM
    found = [(variant, finder.mutants(variant.source, num_mutants)) for variant in passing]
    return _choose(found, correct, incorrect)


Found = list[tuple[Variant, list[EditedProgram]]]


def _choose(found: Found, correct: int, incorrect: int) -> tuple[Variant, ...]:
    """Choose variants and their mutants so that lengths are balanced over the problem."""
    numbers = [incorrect // correct + (place < incorrect % correct) for place in range(correct)]
    assigned = _assign(found, numbers)
    if len(assigned) < correct:
        with_mutants = sum(bool(mutants) for _, mutants in found)
        assigned = _assign(found, [1] * min(with_mutants, correct, incorrect))
    chosen: list[Variant] = []
    differences: list[int] = []
    used: Counter[str] = Counter()
    for variant, mutants, number in assigned:
        picked: list[EditedProgram] = []
        for _ in range(number):
            left = [mutant for mutant in mutants if mutant not in picked]
            costs = [_cost(variant, mutant, differences, used) for mutant in left]
            best = left[costs.index(min(costs))]
            picked.append(best)
            differences.append(len(best.source) - len(variant.source))
            used[best.rule] += 1
        chosen.append(replace(variant, mutants=tuple(picked)))
    return tuple(chosen)


def _cost(
    variant: Variant, mutant: EditedProgram, differences: list[int], used: Counter[str]
) -> int:
    """Compute how much a mutant would unbalance lengths and kinds, given those chosen before."""
    after = [*differences, len(mutant.source) - len(variant.source)]
    sides = sum((difference > 0) - (difference < 0) for difference in after)
    repetition = _REPETITION_PENALTY * used[mutant.rule]
    return abs(sum(after)) + _SIDE_PENALTY * abs(sides) + repetition


def _assign(found: Found, numbers: list[int]) -> list[tuple[Variant, list[EditedProgram], int]]:
    """Give each number of mutants the first unused variant that has enough."""
    assigned: list[tuple[Variant, list[EditedProgram], int]] = []
    free = list(found)
    for number in numbers:
        fitting = next((pair for pair in free if len(pair[1]) >= number), None)
        if fitting is None:
            break
        free.remove(fitting)
        assigned.append((*fitting, number))
    return assigned
