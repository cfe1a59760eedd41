"""Finds, for one problem, programs that pass its tests and programs that give wrong results.

Every incorrect program is one mutation of a correct one in the dataset: both labels then have the
same rewrites, so style is no signal of the label.
"""

import ast
import builtins
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from featurize.data.prepare.from_tests.edits import EditedProgram, edit, normalise
from featurize.data.prepare.from_tests.mutations import MUTATIONS
from featurize.data.prepare.from_tests.problems import Problem
from featurize.data.prepare.from_tests.rewrites import REWRITES
from featurize.data.prepare.from_tests.sandbox import Outcome, Verdict
from featurize.data.prepare.settings import PrepareTestsSettings

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

Run: TypeAlias = Callable[..., Outcome]
"""Runs a `program` for at most `cpu_seconds`, in one process with the tests or `is_apart`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A program that passes, and mutants of it that give wrong results."""

    source: str
    rewrites: tuple[str, ...]
    mutants: list[EditedProgram]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemVariants:
    """The programs found for one problem."""

    variants: tuple[Variant, ...] = ()
    refusal: str | None = None  # why there are none
    counts: dict[str, int] = field(default_factory=dict)  # programs run, by how they ended
    is_apart: bool = True  # whether tests and programs ran in separate processes


class _Finder:
    """Runs the candidates of one problem, each once, and counts how they end."""

    def __init__(self, problem: Problem, run: Run, rng: random.Random, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._run = run
        self._seen: set[str] = set()
        tree = ast.parse(problem.reference)
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        tests = list(ast.walk(ast.parse(problem.tests)))
        keywords = (node.arg for node in tests if isinstance(node, ast.keyword) and node.arg)
        self._edit = partial(edit, helpers=problem.helpers, keywords=frozenset(keywords), rng=rng)
        # Apart, tests have Python's own `sum`, not one that the program defines.
        used = {node.id for node in tests if isinstance(node, ast.Name)}
        self.is_apart = not any(hasattr(builtins, name) for name in defined & used)

    def run(self, source: str) -> Outcome:
        """Run a program; the first decides whether these tests can be in a separate process.

        They cannot if they give the program objects of their own classes, for example.
        """
        outcome = self._run_once(source)
        if not self._seen and self.is_apart and outcome.verdict is not Verdict.PASSED:
            self.is_apart = False
            outcome = self._run_once(source)
        self._seen.add(source)
        self.counts["candidates"] += 1
        self.counts[outcome.verdict.value] += 1
        return outcome

    def _run_once(self, source: str) -> Outcome:
        return self._run(program=source, cpu_seconds=self.cpu_seconds, is_apart=self.is_apart)

    def ends(self, program: EditedProgram, verdict: Verdict) -> bool:
        """Whether a program is new and ends in this way."""
        if program.source in self._seen:
            self.counts["duplicates"] += 1
            return False
        return self.run(program.source).verdict is verdict

    def passing(self, reference: str, wanted: int, max_rewrites: int) -> list[EditedProgram]:
        """Find up to `wanted` rewrites that pass, the reference first."""
        found = [EditedProgram(source=reference, rules=())]
        for _ in range(_REWRITE_ATTEMPTS * wanted):
            if len(found) == wanted:
                break
            count = self._rng.randint(1, max_rewrites)
            rewritten = self._edit(reference, REWRITES, count=count)
            if rewritten.rules and self.ends(rewritten, Verdict.PASSED):
                found.append(rewritten)
        return found

    def mutants(self, source: str, wanted: int) -> list[EditedProgram]:
        """Find up to `wanted` mutants that give wrong results."""
        found: list[EditedProgram] = []
        for _ in range(_MUTATION_ATTEMPTS * wanted):
            if len(found) == wanted:
                break
            mutant = self._edit(source, MUTATIONS)
            if not mutant.rules:
                break
            if self.ends(mutant, Verdict.WRONG):
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
    outcome = finder.run(reference)
    limits = [share * settings.cpu_seconds for share in _TIME_SHARES]
    limit = next((one for one in limits if one >= _TIME_FACTOR * outcome.cpu_seconds), None)
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


def _find_variants(
    finder: _Finder, reference: str, settings: PrepareTestsSettings
) -> tuple[Variant, ...]:
    correct, incorrect = settings.correct, settings.incorrect
    num_mutants = -(-incorrect // correct) * _MUTANTS_TO_CHOOSE_FROM
    # One more than asked for, as a reserve.
    passing = finder.passing(reference, correct + 1, settings.max_rewrites)
    found = [
        Variant(
            source=program.source,
            rewrites=program.rules,
            mutants=finder.mutants(program.source, num_mutants),
        )
        for program in passing
    ]
    numbers = [incorrect // correct + (place < incorrect % correct) for place in range(correct)]
    assigned = _assign(found, numbers)
    if len(assigned) < correct:
        with_mutants = sum(bool(variant.mutants) for variant in found)
        assigned = _assign(found, [1] * min(with_mutants, correct, incorrect))
    return _choose_mutants(assigned)


def _assign(found: list[Variant], numbers: list[int]) -> list[tuple[Variant, int]]:
    """Give each number of mutants the first unused variant that has enough."""
    assigned: list[tuple[Variant, int]] = []
    free = list(found)
    for number in numbers:
        fitting = next((variant for variant in free if len(variant.mutants) >= number), None)
        if fitting is None:
            break
        free.remove(fitting)
        assigned.append((fitting, number))
    return assigned


def _choose_mutants(assigned: list[tuple[Variant, int]]) -> tuple[Variant, ...]:
    """Keep this number of each variant's mutants so that lengths are balanced over the problem."""
    chosen: list[Variant] = []
    differences: list[int] = []
    used: Counter[tuple[str, ...]] = Counter()
    for variant, number in assigned:
        picked: list[EditedProgram] = []
        for _ in range(number):
            left = [mutant for mutant in variant.mutants if mutant not in picked]
            best = min(left, key=lambda one: _cost(variant, one, differences, used))
            picked.append(best)
            differences.append(len(best.source) - len(variant.source))
            used[best.rules] += 1
        chosen.append(replace(variant, mutants=picked))
    return tuple(chosen)


def _cost(
    variant: Variant,
    mutant: EditedProgram,
    differences: list[int],
    used: Counter[tuple[str, ...]],
) -> int:
    """Compute how much a mutant would unbalance lengths and kinds, given those chosen before."""
    after = [*differences, len(mutant.source) - len(variant.source)]
    sides = sum((difference > 0) - (difference < 0) for difference in after)
    repetition = _REPETITION_PENALTY * used[mutant.rules]
    return abs(sum(after)) + _SIDE_PENALTY * abs(sides) + repetition
