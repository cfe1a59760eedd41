"""Rewrites of loops that keep what a function does: for and while, comprehensions and loops."""

import ast
import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from featurize.data.prepare.from_tests.edits import Place, Rules, Scope
from featurize.data.prepare.from_tests.nodes import (
    is_number,
    is_pure,
    load,
    loaded_names,
    replace,
    stored_names,
)
from featurize.data.prepare.from_tests.patterns import Parts, code

LOOP_REWRITES = Rules()

Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

# An empty collection, and the statement that adds an element to it.
_COLLECTIONS: dict[type[ast.expr], str] = {
    ast.ListComp: "X = []\nX.append(A)",
    ast.SetComp: "X = set()\nX.add(A)",
    ast.DictComp: "X = {}\nX[K] = A",
}
# The statement in the loop that leaves the function, and the one after the loop.
_QUANTIFIERS = {
    "any": ("if A: return True", "return False"),
    "all": ("if NOT(A): return False", "return True"),
}
_CLOSURES = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.NamedExpr, ast.Yield, ast.Await)


def _can_count(loop: Any, name: str, scope: Scope) -> bool:
    """Whether the end of the loop's body may increment the variable instead of its header.

    A `continue` would jump over the increment; a variable seen elsewhere would end one higher.
    """
    is_plain = not any(
        isinstance(node, (*_CLOSURES, ast.Continue))
        for statement in loop.body
        for node in ast.walk(statement)
    )
    return is_plain and name not in stored_names(*loop.body) and _is_private(scope, loop, name)


def _is_private(scope: Scope, loop: ast.AST, name: str) -> bool:
    """Whether the variable occurs in this loop only."""
    arguments = {node.arg for node in ast.walk(scope.function) if isinstance(node, ast.arg)}
    return name not in arguments and _occurs_only_in(loop, scope, name)


def _occurs_only_in(part: ast.AST, scope: Scope, name: str) -> bool:
    def count(root: ast.AST) -> int:
        return sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(root))

    return count(scope.function) == count(part)


def _can_count_to(place: Place, parts: Parts) -> bool:
    """Whether a counter from A, or 0, to B may take the place of the loop's range."""
    bounds = (parts[name] for name in "AB" if name in parts)
    return all(map(is_pure, bounds)) and _can_count(place.node, parts["X"].id, place.scope)


def _is_fixed(parts: Parts) -> bool:
    """Whether the body of a loop leaves its upper bound as it is."""
    match parts["B"]:
        case ast.Name(id=name):
            return name not in stored_names(*parts["BODY"])
    return isinstance(parts["B"], ast.Constant)


def _can_collect(place: Place, parts: Parts) -> bool:
    """Whether the collection is not read while it grows, and the loop's variables nowhere else."""
    read = loaded_names(*(parts[name] for name in "ABC" if name in parts))
    targets = stored_names(parts["T"])
    return parts["X"].id not in read and all(
        _is_private(place.scope, place.rest[0], target) for target in targets
    )


def _is_last_in_loop(place: Place, parts: Parts) -> bool:
    is_body = isinstance(place.parent, ast.For | ast.While) and place.field == "body"
    return is_body and not place.rest


LOOP_REWRITES.write(
    "for to while",
    ("for X in range(B): BODY", "X = 0\nwhile X < B:\n BODY\n X += 1"),
    ("for X in range(A, B): BODY", "X = A\nwhile X < B:\n BODY\n X += 1"),
    when=lambda place, parts: _can_count_to(place, parts) and _is_fixed(parts),
)
LOOP_REWRITES.write(
    "for to while",
    ("for X in range(B): BODY", "NEW = B\nX = 0\nwhile X < NEW:\n BODY\n X += 1"),
    ("for X in range(A, B): BODY", "NEW = B\nX = A\nwhile X < NEW:\n BODY\n X += 1"),
    when=lambda place, parts: _can_count_to(place, parts) and not _is_fixed(parts),
)
LOOP_REWRITES.write(
    "enumerate to counter",
    ("for X, T in enumerate(A): BODY", "X = 0\nfor T in A:\n BODY\n X += 1"),
    when=lambda place, parts: _can_count(place.node, parts["X"].id, place.scope),
)
LOOP_REWRITES.write(
    "while to break",
    ("while A: BODY", "while True:\n if NOT(A): break\n BODY"),
    when=lambda place, parts: not isinstance(parts["A"], ast.Constant),
)
LOOP_REWRITES.write(
    "condition to continue",
    ("if A: BODY", "if NOT(A): continue\nBODY"),
    when=_is_last_in_loop,
)
LOOP_REWRITES.write(
    "loop to comprehension",
    ("X = []\nfor T in A:\n X.append(B)", "X = [B for T in A]"),
    ("X = []\nfor T in A:\n if C: X.append(B)", "X = [B for T in A if C]"),
    when=_can_collect,
)


@LOOP_REWRITES.add("comprehension to loop")
def comprehension_to_loop(place: Place) -> Iterator[list[ast.stmt]]:
    """`x = [e for t in y if c]` (or a return of it) to a loop that appends."""
    match place.node:
        case (ast.Return(value=found) | ast.Assign(targets=[ast.Name()], value=found)) as node if (
            isinstance(found, ast.ListComp | ast.SetComp | ast.DictComp)
        ):
            value = copy.deepcopy(found)
        case _:
            return
    if place.scope.is_shadowed("set") or not _free_targets(value, place.scope):
        return
    name = load(place.scope.fresh_name())
    key, item = (value.key, value.value) if isinstance(value, ast.DictComp) else (None, value.elt)
    start, step = code(_COLLECTIONS[type(value)], X=name, A=item, K=key)
    yield [start, _nest(value.generators, step), replace(node, value=name)]


@LOOP_REWRITES.add("quantifier to loop")
def quantifier_to_loop(place: Place) -> Iterator[list[ast.stmt]]:
    """`return all(c for x in y)` to a loop that returns False at the first failure; any() likewise.

    A sum becomes a loop too if it adds integers (sum() of floats may round differently).
    """
    match place.node:
        case ast.Return(
            value=ast.Call(func=ast.Name(id=name), args=[ast.GeneratorExp() as inner], keywords=[])
        ):
            inner = copy.deepcopy(inner)
        case _:
            return
    if place.scope.is_shadowed(name) or not _free_targets(inner, place.scope):
        return
    if name in {"any", "all"}:
        leave, end = _QUANTIFIERS[name]
        yield [_nest(inner.generators, *code(leave, A=inner.elt)), *code(end)]
    elif name == "sum" and is_number(inner.elt):
        total = load(place.scope.fresh_name())
        start, end, step = code("X = 0\nreturn X\nX += A", X=total, A=inner.elt)
        yield [start, _nest(inner.generators, step), end]


def _free_targets(value: Comprehension, scope: Scope) -> bool:
    """Rename the comprehension's variables that the function uses elsewhere; False if it cannot."""
    inner = (*_CLOSURES, ast.ListComp)  # an inner comprehension may bind the same names again
    if any(isinstance(node, inner) for node in ast.walk(value) if node is not value):
        return False
    taken = set(scope.taken)
    targets = [generator.target for generator in value.generators]
    for target in sorted(stored_names(*targets)):
        if _occurs_only_in(value, scope, target):
            continue
        new = scope.fresh_name(is_index=len(target) == 1)
        if new in taken or target in loaded_names(value.generators[0].iter):
            return False
        taken.add(new)
        for node in ast.walk(value):
            if isinstance(node, ast.Name) and node.id == target:
                node.id = new
    names = [node.id for one in targets for node in ast.walk(one) if isinstance(node, ast.Name)]
    return len(set(names)) == len(names)


def _nest(generators: Sequence[ast.comprehension], step: ast.stmt) -> ast.stmt:
    """Make the nested loops and conditions of a comprehension around a statement."""
    for generator in reversed(generators):
        for test in reversed(generator.ifs):
            [step] = code("if A: STEP", A=test, STEP=[step])
        step = ast.For(target=generator.target, iter=generator.iter, body=[step], orelse=[])
    return step
