"""Rewriting any program any number of times keeps its results."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.data.prepare.from_tests.edits import edit, normalise
from featurize.data.prepare.from_tests.rewrites import REWRITES

# `t % 100`, because loops that square `t` itself would compute numbers of a million digits.
NUMBERS = st.one_of(
    st.sampled_from(["n", "(t % 100)", "len(x)", "(x[0] if x else 1)", "sum([a * a for a in x])"]),
    st.integers(-3, 9).map(str),
)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(
        lambda parts: f"({' '.join(parts)})"
    ),
    max_leaves=4,
)
COMPARISONS = st.tuples(EXPRESSIONS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="])).flatmap(
    lambda left: EXPRESSIONS.map(lambda right: f"{left[0]} {left[1]} {right}")
)
TESTS = st.recursive(
    st.one_of(COMPARISONS, st.sampled_from(["x", "n in x", "0 < n <= 3", "not t"])),
    lambda inner: st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
        lambda parts: f"({' '.join(parts)})"
    ),
    max_leaves=3,
)


def indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


SIMPLE = st.one_of(
    EXPRESSIONS.map(lambda value: [f"t = {value}"]),
    st.integers(0, 3).map(lambda value: [f"t += {value}"]),
    st.just(["y.append(t)"]),
    st.tuples(TESTS, EXPRESSIONS, EXPRESSIONS).map(
        lambda parts: [f"t = {parts[1]} if {parts[0]} else {parts[2]}"]
    ),
    TESTS.map(lambda test: [f"y = [a + n for a in y if {test}]"]),
    TESTS.map(lambda test: [f"if {test}:", "    return (t, y)"]),
    st.just(["z = []", "for a in x:", "    if a > n:", "        z.append(a + t)", "y = y + z"]),
)
STATEMENTS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.tuples(TESTS, inner, inner).map(
            lambda parts: [f"if {parts[0]}:", *indent(parts[1]), "else:", *indent(parts[2])]
        ),
        inner.map(lambda body: ["for i in range(3):", *indent([*body, "t += i"])]),
        inner.map(lambda body: ["for i, a in enumerate(x):", *indent([*body, "t += i * a"])]),
        st.tuples(inner, TESTS).map(
            lambda parts: ["for b in x:", *indent([*parts[0], f"if {parts[1]}:", "    t += b"])]
        ),
    ),
    max_leaves=5,
)


@st.composite
def programs(draw: st.DrawFn) -> str:
    body = [line for lines in draw(st.lists(STATEMENTS, max_size=3)) for line in lines]
    last = draw(st.sampled_from(["return (t, y)", "return t > n", "return all(a > n for a in y)"]))
    return normalise("\n".join(["def f(x, n):", *indent(["t = 0", "y = []", *body, last])]))


def results(source: str) -> list[Any]:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    found: list[Any] = []
    for x in ([], [1], [3, 1, 2]):
        for n in (0, 2):
            given = list(x)
            try:
                found.append((namespace["f"](given, n), given))
            except (UnboundLocalError, OverflowError) as error:
                found.append(type(error))
    return found


@settings(max_examples=60, deadline=None)
@given(source=programs(), seed=st.integers(0, 10**6), count=st.integers(1, 6))
def test_rewrites_keep_the_results_of_generated_programs(source: str, seed: int, count: int):
    rng = random.Random(seed)
    expected = results(source)
    for _ in range(count):
        edited = edit(source, REWRITES, rng=rng)
        assert edited.rules
        assert results(edited.source) == expected, (edited.rules, source, edited.source)
        source = edited.source
