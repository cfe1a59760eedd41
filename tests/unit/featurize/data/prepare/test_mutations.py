"""Mutations change what a program does, and stay programs."""

import random

import pytest

from featurize.data.prepare.from_tests.edits import edit, normalise
from featurize.data.prepare.from_tests.mutations import MUTATIONS

# For each mutation a program it fits and all programs that it may become.
CASES: dict[str, tuple[str, set[str]]] = {
    "comparison": ("return a < b", {"return a <= b", "return a > b"}),
    "number": ("return a + 1", {"return a + 0", "return a + 2"}),
    "constant": ("return 'abc'", {"return 'ab'", "return 'bc'"}),
    "operator": ("return a - b", {"return a + b"}),
    "operand order": ("return a - b", {"return b - a"}),
    "and/or": ("return a and b", {"return a or b"}),
    "lost operand": ("return a and b", {"return a", "return b"}),
    "negation": ("return not a", {"return a"}),
    "bound": ("return b[a]", {"return b[a + 1]", "return b[a - 1]"}),
    "slice": ("return a[1:2]", {"return a[1:]", "return a[:2]"}),
    "variable": ("return a", {"return b"}),
    "function": ("return max(a, b)", {"return min(a, b)"}),
    "argument order": ("return g(a, b)", {"return g(b, a)"}),
    "ternary": ("return 1 if a else 2", {"return 2 if a else 1"}),
    "lost statement": ("a = 2\n    return a", {"return a"}),
    "lost condition": ("if a:\n        return b", {"return b"}),
    "jump": ("for a in b:\n        break", {"for a in b:\n        continue"}),
    "step": ("a += b", {"a -= b", "a *= b", "a = b"}),
}


def to_program(body: str) -> str:
    return normalise(f"def f(a, b):\n    {body}\n")


def test_every_mutation_has_a_case():
    assert set(CASES) == set(MUTATIONS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_mutation_makes_exactly_the_mistakes_it_is_named_after(name: str):
    body, expected = CASES[name]
    made = set()
    for seed in range(40):
        rules = {name: MUTATIONS[name]}
        made.add(edit(to_program(body), rules, rng=random.Random(seed)).source)
    assert made == {to_program(text) for text in expected}


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    pass\n",  # no place for a mistake
        "def g(a):\n    return a < 1\n\ndef f(a):\n    return g(a)\n",  # only f is mutated
    ],
)
def test_some_programs_have_no_mutant(source: str):
    helpers = frozenset({"g"})
    assert not edit(source, MUTATIONS, helpers=helpers, rng=random.Random(0)).rules
