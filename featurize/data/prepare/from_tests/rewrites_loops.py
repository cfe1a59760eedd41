"""Rewrites of loops that keep what a function does: for and while, comprehensions and loops."""

import ast
import copy
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from featurize.data.prepare.from_tests.edits import Place, Rules, Scope
from featurize.data.prepare.from_tests.nodes import (
    add_to,
    assign,
    call,
    guard,
    is_number,
    is_pure,
    load,
    loaded_names,
    negate,
    replace,
    stored_names,
)

LOOP_REWRITES = Rules()

Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

_CLOSURES = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.NamedExpr, ast.Yield, ast.Await)


@LOOP_REWRITES.add("for to while")
def for_to_while(place: Place) -> Iterator[list[ast.stmt]]:
    """`for i in range(a, b): ...` to `i = a`, `while i < b: ...; i += 1`."""
    match place.node:
        case (
            ast.For(
                target=ast.Name(id=name),
                iter=ast.Call(
                    func=ast.Name(id="range"), args=[*starts, stop], keywords=[]
                ) as bounds,
                body=body,
                orelse=[],
            ) as loop
        ) if len(starts) < 2 and is_pure(bounds) and _can_count(loop, name, place.scope):
            first = starts[0] if starts else ast.Constant(value=0)
        case _:
            return
    before = [assign(name, first)]
    is_fixed = isinstance(stop, ast.Name) and stop.id not in stored_names(*body)
    if not (is_fixed or isinstance(stop, ast.Constant)):
        limit = place.scope.fresh_name()
        before.insert(0, assign(limit, stop))
        stop = load(limit)
    test = ast.Compare(left=load(name), ops=[ast.Lt()], comparators=[stop])
    step = add_to(name, ast.Constant(value=1))
    yield [*before, ast.While(test=test, body=[*body, step], orelse=[])]


@LOOP_REWRITES.add("enumerate to counter")
def enumerate_to_counter(place: Place) -> Iterator[list[ast.stmt]]:
    """`for i, x in enumerate(y): ...` to a loop that increments its own counter."""
    match place.node:
        case (
            ast.For(
                target=ast.Tuple(elts=[ast.Name(id=name), item]),
                iter=ast.Call(func=ast.Name(id="enumerate"), args=[values], keywords=[]),
                body=body,
                orelse=[],
            ) as loop
        ) if _can_count(loop, name, place.scope):
            step = add_to(name, ast.Constant(value=1))
            loop = ast.For(target=item, iter=values, body=[*body, step], orelse=[])
            yield [assign(name, ast.Constant(value=0)), loop]


def _can_count(loop: ast.For, name: str, scope: Scope) -> bool:
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


@LOOP_REWRITES.add("while to break")
def while_to_break(place: Place) -> Iterator[list[ast.stmt]]:
    """`while c: ...` to `while True: if not c: break; ...`."""
    match place.node:
        case ast.While(test=test, body=body, orelse=[]) if not isinstance(test, ast.Constant):
            leave = guard(negate(test), ast.Break())
            yield [ast.While(test=ast.Constant(value=True), body=[leave, *body], orelse=[])]


@LOOP_REWRITES.add("condition to continue")
def condition_to_continue(place: Place) -> Iterator[list[ast.stmt]]:
    """A loop's last `if c: A` to `if not c: continue`, then A."""
    match place.parent, place.field, place.node:
        case ast.For() | ast.While(), "body", ast.If(test=test, body=body, orelse=[]):
            if not place.rest:
                yield [guard(negate(test), ast.Continue()), *body]


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
    name = place.scope.fresh_name()
    empty, step = _collect(name, value)
    last = replace(node, value=load(name))
    yield [assign(name, empty), _nest(value.generators, step), last]


def _collect(
    name: str, value: ast.ListComp | ast.SetComp | ast.DictComp
) -> tuple[ast.expr, ast.stmt]:
    """Make the empty collection and the statement that adds one element to it."""
    match value:
        case ast.ListComp(elt=element):
            return ast.List(elts=[], ctx=ast.Load()), _method_call(name, "append", element)
        case ast.SetComp(elt=element):
            return call(load("set")), _method_call(name, "add", element)
        case ast.DictComp():
            slot = ast.Subscript(value=load(name), slice=value.key, ctx=ast.Store())
            return ast.Dict(keys=[], values=[]), ast.Assign(targets=[slot], value=value.value)


def _method_call(name: str, method: str, argument: ast.expr) -> ast.Expr:
    function = ast.Attribute(value=load(name), attr=method, ctx=ast.Load())
    return ast.Expr(value=call(function, argument))


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
        found = name == "any"
        leave = guard(
            inner.elt if found else negate(inner.elt), ast.Return(value=ast.Constant(value=found))
        )
        end = ast.Return(value=ast.Constant(value=not found))
        yield [_nest(inner.generators, leave), end]
    elif name == "sum" and is_number(inner.elt):
        total = place.scope.fresh_name()
        loop = _nest(inner.generators, add_to(total, inner.elt))
        yield [assign(total, ast.Constant(value=0)), loop, ast.Return(value=load(total))]


@LOOP_REWRITES.add("loop to comprehension", length=2)
def loop_to_comprehension(place: Place) -> Iterator[list[ast.stmt]]:
    """`x = []`, `for t in y: x.append(e)` to `x = [e for t in y]`."""
    match place.node, place.rest:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=ast.List(elts=[])) as first,
            [ast.For(target=target, iter=values, body=[step], orelse=[]) as loop, *_],
        ):
            tests: list[ast.expr] = []
        case _:
            return
    match step:
        case ast.If(test=test, body=[inner], orelse=[]):
            tests, step = [test], inner
    match step:
        case ast.Expr(
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id=receiver), attr="append"), args=[element]
            )
        ) if receiver == name and name not in loaded_names(element, values, *tests):
            if all(_is_private(place.scope, loop, one) for one in stored_names(target)):
                generator = ast.comprehension(target=target, iter=values, ifs=tests, is_async=0)
                yield [replace(first, value=ast.ListComp(elt=element, generators=[generator]))]


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
            step = guard(test, step)
        step = ast.For(target=generator.target, iter=generator.iter, body=[step], orelse=[])
    return step
