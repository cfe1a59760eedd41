"""Every rewrite keeps what a program does, and every mutation makes its mistake: all are tried."""

import random
from typing import Any

import pytest

from featurize.data.prepare.from_tests.edits import Rules, edit, normalise
from featurize.data.prepare.from_tests.mutations import MUTATIONS
from featurize.data.prepare.from_tests.rewrites import REWRITES

# For each rewrite a program it fits, its inputs, and a text that the rewritten program has.
CASES: dict[str, tuple[str, list[tuple[Any, ...]], str]] = {
    "rename variable": ("def f(a):\n    b = a + 1\n    return b * b", [(2,)], "return "),
    "flip comparison": ("def f(a, b):\n    return a < b", [(1, 2), (2, 2), (3, 2)], "b > a"),
    "negate twice": ("def f(a, b):\n    return a in b", [(1, [1]), (1, [])], "not a not in b"),
    "De Morgan": (
        "def f(a, b):\n    if a and b == 1:\n        return 1\n    return 2",
        [(0, 1), (1, 1), (1, 0), (0, 0)],
        "not (not a or b != 1)",
    ),
    "split chain": ("def f(a):\n    return 1 < a <= 3", [(1,), (2,), (4,)], "1 < a and a <= 3"),
    "commute": ("def f(a):\n    return a * 3", [(2,), ("x",), ([1],)], "3 * a"),
    "range form": ("def f(n):\n    return sum(range(n))", [(0,), (4,)], "range(0, n)"),
    "slice form": ("def f(x):\n    return x[:2]", [("abc",), ("",)], "x[0:2]"),
    "swap ternary": ("def f(a):\n    return 1 if a else 2", [(0,), (1,)], "2 if not a else 1"),
    "generator form": ("def f(x):\n    return sum([a for a in x])", [([1, 2],)], "sum((a for"),
    "wrap list": ("def f(x):\n    return [a for a in x]", [([1, 2],)], "list((a for"),
    "swap alternatives": (
        "def f(a, b):\n    if a == 1 or b:\n        return 1\n    return 2",
        [(1, 0), (0, 0), (0, 1)],
        "b or a == 1",
    ),
    "swap branches": (
        "def f(a):\n    if a:\n        b = 1\n    else:\n        b = 2\n    return b",
        [(0,), (1,)],
        "if not a:",
    ),
    "guard to else": (
        "def f(a):\n    if a:\n        return 1\n    a = 5\n    return a",
        [(0,), (1,)],
        "else:\n        a = 5",
    ),
    "else to guard": (
        "def f(a):\n    if a:\n        return 1\n    else:\n        return 2",
        [(0,), (1,)],
        "    return 2",
    ),
    "nest condition": (
        "def f(a, b):\n    if a and b:\n        return 1\n    return 2",
        [(0, 1), (1, 1), (1, 0)],
        "if a:\n        if b:",
    ),
    "ternary to branches": ("def f(a):\n    return 1 if a else 2", [(0,), (1,)], "else:"),
    "branches to ternary": (
        "def f(a):\n    if a:\n        return 1\n    else:\n        return 2",
        [(0,), (1,)],
        "return 1 if a else 2",
    ),
    "return to branches": ("def f(a):\n    return a == 1", [(0,), (1,)], "return False"),
    "expand augmented": ("def f(a):\n    a += 2\n    return a", [(1,)], "a = a + 2"),
    "contract augmented": ("def f(a):\n    a = a - 2\n    return a", [(1,)], "a -= 2"),
    "name return value": ("def f(a):\n    return a + 1", [(1,)], " = a + 1"),
    "inline return value": ("def f(a):\n    b = a + 1\n    return b", [(1,)], "return a + 1"),
    "name first value": ("def f(a):\n    return len(a) + 1", [([1],)], " = len(a)"),
    "swap assignments": (
        "def f(a):\n    b = 1\n    c = []\n    return (a, b, c)",
        [(1,)],
        "c = []\n    b = 1",
    ),
    "for to while": (
        "def f(n):\n    t = 0\n    for i in range(1, n * 2):\n        t += i\n    return t",
        [(0,), (1,), (4,)],
        "while i < ",
    ),
    "while to break": (
        "def f(n):\n    while n > 3:\n        n -= 2\n    return n",
        [(2,), (9,)],
        "while True:",
    ),
    "condition to continue": (
        "def f(x):\n    t = 0\n    for a in x:\n        if a:\n            t += a\n    return t",
        [([1, 0, 2],), ([],)],
        "continue",
    ),
    "enumerate to counter": (
        "def f(x):\n    t = 0\n    for i, a in enumerate(x):\n        t += i * a\n    return t",
        [([1, 5, 2],), ([],)],
        "i += 1",
    ),
    "comprehension to loop": (
        "def f(x):\n    return [a + 1 for a in x if a]",
        [([1, 0, 2],), ([],)],
        ".append(a + 1)",
    ),
    "quantifier to loop": (
        "def f(x):\n    return all(a > 1 for a in x)",
        [([1, 2],), ([2],), ([],)],
        "return False",
    ),
    "loop to comprehension": (
        "def f(x):\n    y = []\n    for a in x:\n        if a:\n            y.append(a)\n"
        "    return y",
        [([1, 0, 2],), ([],)],
        "y = [a for a in x if a]",
    ),
}


# For each mutation a program it fits and all programs that it may become.
MISTAKES: dict[str, tuple[str, set[str]]] = {
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


def call(source: str, arguments: tuple[Any, ...]) -> Any:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["f"](*arguments)


def edited_by(name: str, source: str, seed: int = 0) -> str | None:
    edited = edit(source, {name: REWRITES[name]}, rng=random.Random(seed))
    return edited.source if edited.rules else None


def test_every_rule_has_a_case():
    assert set(CASES) == set(REWRITES)
    assert set(MISTAKES) == set(MUTATIONS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_rewrite_changes_the_text_and_keeps_the_results(name: str):
    source, inputs, expected = CASES[name]
    source = normalise(source)
    edits = [edited_by(name, source, seed) for seed in range(8)]
    assert any(edited is not None and expected in edited for edited in edits)
    for edited in edits:
        assert edited is not None
        assert edited != source
        for arguments in inputs:
            assert call(edited, arguments) == call(source, arguments)
            assert type(call(edited, arguments)) is type(call(source, arguments))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("commute", "def f(a, b):\n    return a + b\n"),  # texts and lists have an order
        ("expand augmented", "def f(a, b):\n    a += b\n"),  # a list would be changed in place
        ("flip comparison", "def f(a):\n    return next(a) < next(a)\n"),  # order of effects
        ("negate twice", "def f(a, b):\n    return a < b\n"),  # NaN and sets
        (
            "for to while",  # the loop variable is read afterwards
            "def f(n):\n    for i in range(n):\n        print(i)\n    return i\n",
        ),
        (
            "for to while",  # `continue` would jump over the step
            "def f(n):\n    for i in range(n):\n        if i:\n            continue\n        n\n",
        ),
        (
            "enumerate to counter",
            "def f(x):\n    for i, a in enumerate(x):\n        i = a\n",
        ),
        ("wrap list", "def f(list):\n    return [a for a in list]\n"),  # `list` is a parameter
        ("De Morgan", "def f(a, b):\n    return a and b\n"),  # the value counts, not its truth
        (
            "loop to comprehension",  # the list is read while it grows
            "def f(x):\n    y = []\n    for a in x:\n        y.append(len(y))\n    return y\n",
        ),
        (
            "loop to comprehension",  # `[*a for a in x]` is no Python
            "def f(x):\n    y = []\n    for a in x:\n        y.append(*a)\n    return y\n",
        ),
        ("range form", "def f(a):\n    return range(0, *a)\n"),
        ("rename variable", "def f(a):\n    return a\n"),  # the signature stays
        ("rename variable", "def f(a):\n    b = a\n    return locals()\n"),
        ("rename variable", "def f(a):\n    b = a\n    return dict(b=b)\n"),
    ],
)
def test_a_rewrite_leaves_alone_what_it_could_break(name: str, source: str):
    assert edited_by(name, source) is None


def test_renaming_reaches_inner_functions_and_avoids_names_in_use():
    source = (
        "def f(a):\n    i = a\n\n    def g(j):\n        nonlocal i\n        i += j\n"
        "        return i\n    return g(2) + i\n"
    )
    for seed in range(12):
        edited = edited_by("rename variable", source, seed)
        assert edited is not None
        assert call(edited, (3,)) == call(source, (3,)) == 10


def test_normalise_removes_docstrings_comments_and_layout():
    source = '"""Module."""\ndef f( a ):\n    """Text."""\n    # why\n    return (a)\n'
    assert normalise(source) == "def f(a):\n    return a\n"
    assert normalise("def f():\n    'only a text'\n") == "def f():\n    pass\n"


def test_the_same_seed_gives_the_same_rewrite():
    source = normalise(CASES["for to while"][0])
    first, second = (edit(source, REWRITES, rng=random.Random(5), count=3) for _ in range(2))
    assert first == second


def to_program(body: str) -> str:
    return normalise(f"def f(a, b):\n    {body}\n")


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mutation_makes_exactly_the_mistakes_it_is_named_after(name: str):
    body, expected = MISTAKES[name]
    made = set()
    for seed in range(40):
        rules = {name: MUTATIONS[name]}
        made.add(edit(to_program(body), rules, rng=random.Random(seed)).source)
    assert made == {to_program(text) for text in expected}


def test_a_mistake_that_is_no_python_is_not_made():
    source = "def f(a):\n    return len(a) + abs(*a)\n"
    rules = {"function": MUTATIONS["function"]}
    assert not edit(source, rules, rng=random.Random(0)).rules
    assert edit(source, MUTATIONS, rng=random.Random(0)).rules


def test_a_program_without_a_place_for_a_mistake_has_no_mutant():
    assert not edit("def f():\n    pass\n", MUTATIONS, rng=random.Random(0)).rules


@pytest.mark.parametrize("rules", [REWRITES, MUTATIONS])
def test_helpers_are_not_touched(rules: Rules):
    source = "def g(a):\n    return a < 1\n\ndef f(a):\n    return g(a) + 1\n"
    edited = edit(source, rules, helpers=frozenset({"g"}), rng=random.Random(1), count=3)
    assert edited.rules
    assert edited.source.startswith("def g(a):\n    return a < 1\n")
