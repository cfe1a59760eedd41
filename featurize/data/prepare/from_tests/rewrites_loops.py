"""Rewrites of loops that keep what a function does: for and while, comprehensions and loops."""

import ast
import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeAlias

from featurize.data.prepare.from_tests.edits import (
    Block,
    Catalogue,
    Edit,
    on_blocks,
    on_pairs,
    on_statements,
)
from featurize.data.prepare.from_tests.names import (
    Scope,
    fresh_name,
    is_shadowed,
    loaded_names,
    stored_names,
)
from featurize.data.prepare.from_tests.nodes import (
    add_to,
    assign,
    assigned_name,
    call,
    guard,
    is_number,
    is_pure,
    load,
    negate,
    replace,
)

LOOP_REWRITES = Catalogue()

Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

_CLOSURES = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.NamedExpr, ast.Yield, ast.Await)


@LOOP_REWRITES.add("for to while", on_statements)
def for_to_while(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`for i in range(a, b): ...` to `i = a`, `while i < b: ...; i += 1`."""
    match node:
        case ast.For(
            target=ast.Name(id=name),
            iter=ast.Call(func=ast.Name(id="range"), args=[*starts, stop], keywords=[]) as bounds,
            orelse=[],
        ) if len(starts) < 2 and is_pure(bounds) and _can_count(node, name, scope):
            first = starts[0] if starts else ast.Constant(value=0)
        case _:
            return
    before = [assign(name, first)]
    is_fixed = isinstance(stop, ast.Name) and stop.id not in stored_names(node.body)
    if not (is_fixed or isinstance(stop, ast.Constant)):
        limit = fresh_name(scope)
        before.insert(0, assign(limit, stop))
        stop = load(limit)
    test = ast.Compare(left=load(name), ops=[ast.Lt()], comparators=[stop])
    step = add_to(name, ast.Constant(value=1))
    yield [*before, ast.While(test=test, body=[*node.body, step], orelse=[])]


@LOOP_REWRITES.add("enumerate to counter", on_statements)
def enumerate_to_counter(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`for i, x in enumerate(y): ...` to a loop that increments its own counter."""
    match node:
        case ast.For(
            target=ast.Tuple(elts=[ast.Name(id=name), item]),
            iter=ast.Call(func=ast.Name(id="enumerate"), args=[values], keywords=[]),
            orelse=[],
        ) if _can_count(node, name, scope):
            step = add_to(name, ast.Constant(value=1))
            loop = ast.For(target=item, iter=values, body=[*node.body, step], orelse=[])
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
    return is_plain and name not in stored_names(loop.body) and _is_private(scope, loop, name)


def _is_private(scope: Scope, loop: ast.AST, name: str) -> bool:
    """Whether the variable occurs in this loop only."""
    arguments = {node.arg for node in ast.walk(scope.function) if isinstance(node, ast.arg)}
    return name not in arguments and _occurs_only_in(loop, scope, name)


def _occurs_only_in(part: ast.AST, scope: Scope, name: str) -> bool:
    def count(root: ast.AST) -> int:
        return sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(root))

    return count(scope.function) == count(part)


@LOOP_REWRITES.add("while to break", on_statements)
def while_to_break(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`while c: ...` to `while True: if not c: break; ...`."""
    if isinstance(node, ast.While) and not node.orelse and not isinstance(node.test, ast.Constant):
        leave = guard(negate(node.test), ast.Break())
        yield [replace(node, test=ast.Constant(value=True), body=[leave, *node.body])]


@LOOP_REWRITES.add("condition to continue", on_blocks)
def condition_to_continue(block: Block, start: int, scope: Scope) -> Iterator[Edit]:
    """A loop's last `if c: A` to `if not c: continue`, then A."""
    node = block.statements[start]
    is_last = start == len(block.statements) - 1
    in_loop = isinstance(block.owner, ast.For | ast.While) and block.field == "body"
    if in_loop and is_last and isinstance(node, ast.If) and not node.orelse:
        skip = guard(negate(node.test), ast.Continue())
        yield partial(block.put, start, 1, [skip, *node.body])


@LOOP_REWRITES.add("comprehension to loop", on_statements)
def comprehension_to_loop(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`x = [e for t in y if c]` (or a return of it) to a loop that appends."""
    if not isinstance(node, ast.Return) and not assigned_name(node):
        return
    value = node.value if isinstance(node, ast.Return | ast.Assign) else None
    if not isinstance(value, ast.ListComp | ast.SetComp | ast.DictComp):
        return
    value = copy.deepcopy(value)
    if is_shadowed(scope, "set") or not _free_targets(value, scope):
        return
    name = fresh_name(scope)
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


@LOOP_REWRITES.add("quantifier to loop", on_statements)
def quantifier_to_loop(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`return all(c for x in y)` to a loop that returns False at the first failure; any() likewise.

    A sum becomes a loop too if it adds integers (sum() of floats may round differently).
    """
    match node:
        case ast.Return(
            value=ast.Call(func=ast.Name(id=name), args=[ast.GeneratorExp() as inner], keywords=[])
        ):
            inner = copy.deepcopy(inner)
        case _:
            return
    if is_shadowed(scope, name) or not _free_targets(inner, scope):
        return
    if name in {"any", "all"}:
        found = name == "any"
        leave = guard(
            inner.elt if found else negate(inner.elt), ast.Return(value=ast.Constant(value=found))
        )
        end = ast.Return(value=ast.Constant(value=not found))
        yield [_nest(inner.generators, leave), end]
    elif name == "sum" and is_number(inner.elt):
        total = fresh_name(scope)
        loop = _nest(inner.generators, add_to(total, inner.elt))
        yield [assign(total, ast.Constant(value=0)), loop, ast.Return(value=load(total))]


@LOOP_REWRITES.add("loop to comprehension", on_pairs)
def loop_to_comprehension(
    first: ast.stmt, second: ast.stmt, scope: Scope
) -> Iterator[list[ast.stmt]]:
    """`x = []`, `for t in y: x.append(e)` to `x = [e for t in y]`."""
    match first, second:
        case ast.Assign(value=ast.List(elts=[])), ast.For(body=[step], orelse=[]):
            name, loop = assigned_name(first), second
        case _:
            return
    tests: list[ast.expr] = []
    match step:
        case ast.If(test=test, body=[inner], orelse=[]):
            tests, step = [test], inner
    match step:
        case ast.Expr(
            value=ast.Call(
                func=ast.Attribute(value=ast.Name(id=receiver), attr="append"), args=[element]
            )
        ) if receiver == name:
            pass
        case _:
            return
    targets = stored_names([loop.target])
    is_read = name in loaded_names([element, loop.iter, *tests])
    if not is_read and all(_is_private(scope, loop, target) for target in targets):
        generator = ast.comprehension(target=loop.target, iter=loop.iter, ifs=tests, is_async=0)
        yield [replace(first, value=ast.ListComp(elt=element, generators=[generator]))]


def _free_targets(value: Comprehension, scope: Scope) -> bool:
    """Rename the comprehension's variables that the function uses elsewhere; False if it cannot."""
    inner = (*_CLOSURES, ast.ListComp)  # an inner comprehension may bind the same names again
    if any(isinstance(node, inner) for node in ast.walk(value) if node is not value):
        return False
    taken = set(scope.taken)
    for target in sorted(stored_names(g.target for g in value.generators)):
        if _occurs_only_in(value, scope, target):
            continue
        new = fresh_name(scope, is_index=len(target) == 1)
        if new in taken or target in loaded_names([value.generators[0].iter]):
            return False
        taken.add(new)
        for node in ast.walk(value):
            if isinstance(node, ast.Name) and node.id == target:
                node.id = new
    names = [
        node.id
        for generator in value.generators
        for node in ast.walk(generator.target)
        if isinstance(node, ast.Name)
    ]
    return len(set(names)) == len(names)


def _nest(generators: Sequence[ast.comprehension], step: ast.stmt) -> ast.stmt:
    """Make the nested loops and conditions of a comprehension around a statement."""
    for generator in reversed(generators):
        for test in reversed(generator.ifs):
            step = guard(test, step)
        step = ast.For(target=generator.target, iter=generator.iter, body=[step], orelse=[])
    return step
