"""Rewrites of statements that keep what a function does: branches, assignments, temporaries."""

import ast
import copy
from collections.abc import Iterator
from functools import partial

from featurize.data.prepare.from_tests.edits import (
    Block,
    Catalogue,
    Edit,
    Slot,
    on_blocks,
    on_pairs,
    on_statements,
)
from featurize.data.prepare.from_tests.names import (
    Scope,
    fresh_name,
    loaded_names,
    renameable_names,
)
from featurize.data.prepare.from_tests.nodes import (
    assign,
    assigned_name,
    guard,
    is_number,
    is_pure,
    load,
    negate,
    replace,
)

STATEMENT_REWRITES = Catalogue()

_JUMPS = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def rename_variable(scope: Scope) -> Iterator[Edit]:
    """Another name for a local variable, in the whole function."""
    for name in renameable_names(scope):
        new = fresh_name(scope, is_index=len(name) == 1 or name.startswith(("i", "j", "k")))
        yield partial(_rename, scope.function, name, new)


STATEMENT_REWRITES["rename variable"] = rename_variable


def _rename(function: ast.FunctionDef, old: str, new: str) -> None:
    for node in ast.walk(function):
        match node:
            case ast.Name(id=name) if name == old:
                node.id = new
            case ast.arg(arg=name) if name == old:
                node.arg = new
            case ast.Nonlocal(names=names):
                node.names = [new if name == old else name for name in names]


@STATEMENT_REWRITES.add("swap branches", on_statements)
def swap_branches(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`if c: A else: B` to `if not c: B else: A`."""
    if isinstance(node, ast.If) and node.orelse:
        yield [ast.If(test=negate(node.test), body=node.orelse, orelse=node.body)]


@STATEMENT_REWRITES.add("guard to else", on_blocks)
def guard_to_else(block: Block, start: int, scope: Scope) -> Iterator[Edit]:
    """`if c: return a` and what follows to `if c: return a else: ...`."""
    node, rest = block.statements[start], block.statements[start + 1 :]
    if isinstance(node, ast.If) and not node.orelse and rest and isinstance(node.body[-1], _JUMPS):
        yield partial(block.put, start, 1 + len(rest), [replace(node, orelse=rest)])


@STATEMENT_REWRITES.add("else to guard", on_statements)
def else_to_guard(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`if c: return a else: B` to `if c: return a`, then B."""
    if isinstance(node, ast.If) and node.orelse and isinstance(node.body[-1], _JUMPS):
        yield [guard(node.test, *node.body), *node.orelse]


@STATEMENT_REWRITES.add("nest condition", on_statements)
def nest_condition(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`if a and b: A` to `if a: if b: A`, and back."""
    match node:
        case ast.If(test=ast.BoolOp(op=ast.And(), values=[first, second]), body=body, orelse=[]):
            yield [guard(first, guard(second, *body))]
        case ast.If(test=first, body=[ast.If(test=second, body=body, orelse=[])], orelse=[]):
            yield [guard(ast.BoolOp(op=ast.And(), values=[first, second]), *body)]


@STATEMENT_REWRITES.add("ternary to branches", on_statements)
def ternary_to_branches(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`x = a if c else b` (or a return of it) to an if statement with two branches."""
    match node:
        case ast.Return(value=ast.IfExp() as value) | ast.Assign(value=ast.IfExp() as value):
            if isinstance(node, ast.Return) or assigned_name(node):
                yes = replace(node, value=value.body)
                no = replace(copy.deepcopy(node), value=value.orelse)
                yield [ast.If(test=value.test, body=[yes], orelse=[no])]


@STATEMENT_REWRITES.add("branches to ternary", on_statements)
def branches_to_ternary(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`if c: x = a else: x = b` (or two returns) to one statement with `a if c else b`."""
    match node:
        case ast.If(
            body=[ast.Return(value=ast.expr() as yes)], orelse=[ast.Return(value=ast.expr() as no)]
        ):
            yield [ast.Return(value=ast.IfExp(test=node.test, body=yes, orelse=no))]
        case ast.If(body=[ast.Assign(value=yes) as first], orelse=[ast.Assign(value=no) as second]):
            name = assigned_name(first)
            if name and name == assigned_name(second):
                yield [assign(name, ast.IfExp(test=node.test, body=yes, orelse=no))]


@STATEMENT_REWRITES.add("return to branches", on_statements)
def return_to_branches(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`return a == b` to `if a == b: return True else: return False`."""
    match node:
        case ast.Return(value=ast.Compare() as test):
            yes, no = (ast.Return(value=ast.Constant(value=value)) for value in (True, False))
            yield [ast.If(test=test, body=[yes], orelse=[no])]


@STATEMENT_REWRITES.add("expand augmented", on_statements)
def expand_augmented(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`x += 1` to `x = x + 1`; only numbers, because a list would be changed in place."""
    if isinstance(node, ast.AugAssign) and is_number(node.value) and is_pure(node.target):
        value = ast.BinOp(left=_as_read(node.target), op=node.op, right=node.value)
        yield [ast.Assign(targets=[node.target], value=value)]


def _as_read(target: ast.Name | ast.Attribute | ast.Subscript) -> ast.expr:
    return replace(copy.deepcopy(target), ctx=ast.Load())


@STATEMENT_REWRITES.add("contract augmented", on_statements)
def contract_augmented(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`x = x + 1` to `x += 1`."""
    match node:
        case ast.Assign(value=ast.BinOp(left=ast.Name(id=read), op=op, right=right)):
            if read == assigned_name(node) and is_number(right):
                target = ast.Name(id=read, ctx=ast.Store())
                yield [ast.AugAssign(target=target, op=op, value=right)]


@STATEMENT_REWRITES.add("name return value", on_statements)
def name_return_value(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`return e` to `result = e`, `return result`."""
    if isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Name):
        name = fresh_name(scope)
        yield [assign(name, node.value), ast.Return(value=load(name))]


@STATEMENT_REWRITES.add("inline return value", on_pairs)
def inline_return_value(
    first: ast.stmt, second: ast.stmt, scope: Scope
) -> Iterator[list[ast.stmt]]:
    """`result = e`, `return result` to `return e`."""
    match first, second:
        case ast.Assign(value=value), ast.Return(value=ast.Name(id=returned)):
            if returned == assigned_name(first) and not _is_seen_elsewhere(scope, returned):
                yield [ast.Return(value=value)]


def _is_seen_elsewhere(scope: Scope, name: str) -> bool:
    """Whether something other than the function's plain statements may read the variable."""
    readers = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.Try)
    return any(
        (isinstance(node, readers) and name in loaded_names([node]))
        or (isinstance(node, ast.Global | ast.Nonlocal) and name in node.names)
        for node in ast.walk(scope.function)
        if node is not scope.function
    )


@STATEMENT_REWRITES.add("name first value", on_statements)
def name_first_value(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`return f(x) + y` to `value = f(x)`, `return value + y`: the part evaluated first."""
    for depth in range(len(_first_slots(node))):
        name = fresh_name(scope)
        rest = copy.deepcopy(node)
        slot = _first_slots(rest)[depth]
        if not isinstance(slot.node, ast.Name | ast.Constant | ast.Starred | ast.Lambda):
            slot.put(load(name))
            yield [assign(name, slot.node), rest]


def _first_slots(statement: ast.stmt) -> list[Slot]:
    """List the expression evaluated first, the part of it evaluated first, and so on."""
    slots = []
    slot = _first_slot(statement)
    while slot:
        slots.append(slot)
        slot = _first_slot(slot.node)
    return slots


def _first_slot(node: ast.AST) -> Slot | None:
    match node:
        case ast.Return() | ast.Assign() | ast.Subscript():
            field = "value"
        case ast.If() | ast.IfExp():
            field = "test"
        case ast.For():
            field = "iter"
        case ast.BinOp() | ast.Compare():
            field = "left"
        case ast.BoolOp():
            field = "values"
        case ast.UnaryOp():
            field = "operand"
        case ast.Call(func=ast.Name(), args=[_, *_]):
            field = "args"
        case ast.Call(func=ast.Attribute() as method):
            return Slot(parent=method, field="value", index=None, node=method.value)
        case _:
            return None
    value = getattr(node, field)
    if isinstance(value, list):
        return Slot(parent=node, field=field, index=0, node=value[0])
    return value and Slot(parent=node, field=field, index=None, node=value)


@STATEMENT_REWRITES.add("swap assignments", on_pairs)
def swap_assignments(first: ast.stmt, second: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """Two consecutive assignments of literals, in the other order."""
    match first, second:
        case ast.Assign(value=one), ast.Assign(value=other):
            names = {assigned_name(first), assigned_name(second)}
            if len(names - {None}) == 2 and _is_literal(one) and _is_literal(other):
                yield [second, first]


def _is_literal(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return all(map(_is_literal, value.elts))
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Dict) and not value.keys)
