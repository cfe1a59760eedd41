"""Finds, for one problem, programs that pass its tests and programs that give wrong results.

Every incorrect program is one mutation of a correct one that is taken as well: both sides then
have the same rewrites behind them, and style tells nothing about the label.
"""

import ast
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Protocol

from featurize.data.prepare.from_tests.edits import normalise
from featurize.data.prepare.from_tests.mutants import mutate_once
from featurize.data.prepare.from_tests.problems import Problem
from featurize.data.prepare.from_tests.rewrites import rewrite_once
from featurize.data.prepare.from_tests.sandbox import Outcome, Verdict

# Attempts before a problem is taken to have no more to give.
_REWRITE_ATTEMPTS = 8
_MUTATION_ATTEMPTS = 6
# Mutants verified for each one wanted, so that there is a choice between lengths.
_MUTANTS_TO_CHOOSE_FROM = 3
# Characters of length difference that a repeated kind of mutation weighs as much as, and a mutant
# more on the shorter or the longer side.
_REPETITION_PENALTY = 3
_SIDE_PENALTY = 6

# Shares of the allowed CPU time that a problem's programs get: the smallest that leaves the
# reference this factor. Endless loops then cost little, and since even a slow machine does not slow
# a program down fourfold, no rewrite and hardly any mutant passes or not by chance.
_TIME_SHARES = (0.05, 0.25, 1.0)
_TIME_FACTOR = 4


class Run(Protocol):
    """Runs a program against the tests of the problem."""

    def __call__(self, *, program: str, cpu_seconds: float) -> Outcome:
        """How the program ends within the time."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A program with a mistake, shown by a failing test."""

    source: str
    mutation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A program that passes, and the chosen mutants of it."""

    source: str
    rewrites: tuple[str, ...]
    mutants: tuple[Mutant, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemVariants:
    """What one problem gave."""

    variants: tuple[Variant, ...] = ()
    refusal: str | None = None  # why there are none
    counts: dict[str, int] = field(default_factory=dict)  # how the programs ended that were run


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
        self._keywords = frozenset(
            node.arg
            for node in ast.walk(ast.parse(problem.tests))
            if isinstance(node, ast.keyword) and node.arg
        )

    def verdict(self, source: str) -> Outcome | None:
        """How the program ends; None for one seen before."""
        if source in self._seen:
            self.counts["duplicate"] += 1
            return None
        self._seen.add(source)
        outcome = self._run(program=source, cpu_seconds=self.cpu_seconds)
        self.counts["candidates"] += 1
        self.counts[outcome.verdict.value] += 1
        return outcome

    def rewrite(self, source: str, count: int) -> Variant:
        """The program after up to `count` rewrites, not yet run."""
        names: list[str] = []
        for _ in range(count):
            edited = rewrite_once(
                source, functions=self._functions, keywords=self._keywords, rng=self.rng
            )
            if edited is None:
                break
            source = edited.source
            names.append(edited.rule)
        return Variant(source=source, rewrites=tuple(names))

    def mutants(self, variant: Variant, wanted: int) -> list[Mutant]:
        """Up to `wanted` mutants of the variant that give wrong results."""
        found: list[Mutant] = []
        for _ in range(_MUTATION_ATTEMPTS * wanted):
            if len(found) == wanted:
                break
            edited = mutate_once(variant.source, functions=self._functions, rng=self.rng)
            if edited is None:
                break
            outcome = self.verdict(edited.source)
            if outcome is not None and outcome.verdict is Verdict.WRONG:
                found.append(Mutant(source=edited.source, mutation=edited.rule))
        return found


def find_variants(
    problem: Problem,
    *,
    run: Run,
    rng: random.Random,
    correct: int,
    incorrect: int,
    max_rewrites: int,
    cpu_seconds: float,
) -> ProblemVariants:
    """Correct variants with their mutants: as many of each as asked for, or equally fewer of both.

    `cpu_seconds` is the most that a program may take.
    """
    try:
        reference = normalise(problem.reference)
        finder = _Finder(problem, run, rng, cpu_seconds)
    except (SyntaxError, ValueError):
        return ProblemVariants(refusal="reference or tests do not parse")
    outcome = finder.verdict(reference)
    assert outcome is not None, "nothing was seen before the reference"
    if outcome.verdict is not Verdict.PASSED:
        reason = f"reference does not pass ({outcome.verdict.value}: {outcome.detail})"
        return ProblemVariants(refusal=reason, counts=dict(finder.counts))
    limit = _time_limit(outcome.cpu_seconds, cpu_seconds)
    if limit is None:
        reason = f"reference takes more than {cpu_seconds / _TIME_FACTOR:g} s of CPU time"
        return ProblemVariants(refusal=reason, counts=dict(finder.counts))
    finder.cpu_seconds = limit
    passing = _find_passing(finder, reference, correct, max_rewrites)
    quota = -(-incorrect // correct)
    found = [
        (variant, finder.mutants(variant, quota * _MUTANTS_TO_CHOOSE_FROM)) for variant in passing
    ]
    variants = _choose(found, correct, incorrect)
    refusal = None if variants else "no wrong results: every mutant passes, crashes or never ends"
    return ProblemVariants(variants=variants, refusal=refusal, counts=dict(finder.counts))


def _time_limit(reference_seconds: float, cpu_seconds: float) -> float | None:
    """What the problem's programs may take, or None where the reference is too slow."""
    limits = [share * cpu_seconds for share in _TIME_SHARES]
    return next((limit for limit in limits if limit >= _TIME_FACTOR * reference_seconds), None)


def _find_passing(
    finder: _Finder, reference: str, correct: int, max_rewrites: int
) -> list[Variant]:
    """The reference and rewrites of it that pass, one more than asked for as a reserve."""
    passing = [Variant(source=reference, rewrites=())]
    for _ in range(_REWRITE_ATTEMPTS * (correct + 1)):
        if len(passing) > correct:
            break
        variant = finder.rewrite(reference, finder.rng.randint(1, max_rewrites))
        outcome = finder.verdict(variant.source) if variant.rewrites else None
        if outcome is not None and outcome.verdict is Verdict.PASSED:
            passing.append(variant)
    return passing


def _choose(
    found: list[tuple[Variant, list[Mutant]]], correct: int, incorrect: int
) -> tuple[Variant, ...]:
    """Variants with their shares of the mutants, lengths balanced over the problem."""
    quotas = [incorrect // correct + (place < incorrect % correct) for place in range(correct)]
    assigned = _assign(found, quotas)
    if len(assigned) < correct:
        with_mutants = sum(bool(mutants) for _, mutants in found)
        assigned = _assign(found, [1] * min(with_mutants, correct, incorrect))
    chosen: list[Variant] = []
    differences: list[int] = []
    used: Counter[str] = Counter()
    for variant, mutants, quota in assigned:
        picked: list[Mutant] = []
        for _ in range(quota):
            left = [mutant for mutant in mutants if mutant not in picked]
            costs = [_cost(variant, mutant, differences, used) for mutant in left]
            best = left[costs.index(min(costs))]
            picked.append(best)
            differences.append(len(best.source) - len(variant.source))
            used[best.mutation] += 1
        chosen.append(replace(variant, mutants=tuple(picked)))
    return tuple(chosen)


def _cost(variant: Variant, mutant: Mutant, differences: list[int], used: Counter[str]) -> int:
    """How much the mutant would unbalance lengths and kinds, given those chosen before."""
    after = [*differences, len(mutant.source) - len(variant.source)]
    sides = sum((difference > 0) - (difference < 0) for difference in after)
    repetition = _REPETITION_PENALTY * used[mutant.mutation]
    return abs(sum(after)) + _SIDE_PENALTY * abs(sides) + repetition


def _assign(
    found: list[tuple[Variant, list[Mutant]]], quotas: list[int]
) -> list[tuple[Variant, list[Mutant], int]]:
    """Give each quota the first unused variant that has so many mutants."""
    assigned: list[tuple[Variant, list[Mutant], int]] = []
    free = list(found)
    for quota in quotas:
        fitting = next((pair for pair in free if len(pair[1]) >= quota), None)
        if fitting is None:
            break
        free.remove(fitting)
        assigned.append((*fitting, quota))
    return assigned
