"""Rewrites of statements that keep what a function does: branches, assignments, temporaries."""

import ast
import copy
from collections.abc import Iterator
from functools import partial

from featurize.data.prepare.from_tests.edits import Block, Edit, Splice
from featurize.data.prepare.from_tests.names import (
    Scope,
    fresh_name,
    is_number,
    is_pure,
    loaded_names,
    renameable_names,
)
from featurize.data.prepare.from_tests.rewrites_expressions import negate

_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def load(name: str) -> ast.Name:
    """The variable, read."""
    return ast.Name(id=name, ctx=ast.Load())


def assign(name: str, value: ast.expr) -> ast.Assign:
    """The statement `name = value`."""
    return ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=value)


def assigned_name(statement: ast.stmt) -> str | None:
    """The variable that a plain assignment sets."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return None


def rename_variable(scope: Scope) -> Iterator[Edit]:
    """Another name for a local variable, everywhere in the function."""
    for name in renameable_names(scope):
        new = fresh_name(scope, is_index=len(name) == 1 or name.startswith(("i", "j", "k")))
        yield partial(_rename, scope.function, name, new)


def _rename(function: ast.FunctionDef, old: str, new: str) -> None:
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new
        elif isinstance(node, ast.arg) and node.arg == old:
            node.arg = new
        elif isinstance(node, ast.Nonlocal):
            node.names = [new if name == old else name for name in node.names]


def swap_branches(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`if c: A else: B` as `if not c: B else: A`."""
    node = block.statements[start]
    if isinstance(node, ast.If) and node.orelse:
        swapped = ast.If(test=negate(node.test), body=node.orelse, orelse=node.body)
        yield Splice(length=1, statements=[swapped])


def guard_to_else(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`if c: return a` and what follows as `if c: return a else: ...`."""
    node, rest = block.statements[start], block.statements[start + 1 :]
    if isinstance(node, ast.If) and not node.orelse and rest and isinstance(node.body[-1], _LEAVES):
        joined = ast.If(test=node.test, body=node.body, orelse=rest)
        yield Splice(length=1 + len(rest), statements=[joined])


def else_to_guard(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`if c: return a else: B` as `if c: return a`, then B."""
    node = block.statements[start]
    if isinstance(node, ast.If) and node.orelse and isinstance(node.body[-1], _LEAVES):
        guard = ast.If(test=node.test, body=node.body, orelse=[])
        yield Splice(length=1, statements=[guard, *node.orelse])


def nest_condition(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`if a and b: A` as `if a: if b: A`, and back."""
    node = block.statements[start]
    if not isinstance(node, ast.If) or node.orelse:
        return
    test, inner = node.test, node.body[0]
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) and len(test.values) == 2:
        nested = ast.If(test=test.values[1], body=node.body, orelse=[])
        outer = ast.If(test=test.values[0], body=[nested], orelse=[])
        yield Splice(length=1, statements=[outer])
    elif len(node.body) == 1 and isinstance(inner, ast.If) and not inner.orelse:
        both = ast.BoolOp(op=ast.And(), values=[test, inner.test])
        yield Splice(length=1, statements=[ast.If(test=both, body=inner.body, orelse=[])])


def ternary_to_branches(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`x = a if c else b` (or a return of it) as an if statement with two branches."""
    node = block.statements[start]
    if isinstance(node, ast.Return) and isinstance(node.value, ast.IfExp):
        value = node.value
        yes: ast.stmt = ast.Return(value=value.body)
        no: ast.stmt = ast.Return(value=value.orelse)
    elif isinstance(node, ast.Assign) and assigned_name(node) and isinstance(node.value, ast.IfExp):
        value = node.value
        yes = ast.Assign(targets=node.targets, value=value.body)
        no = ast.Assign(targets=copy.deepcopy(node.targets), value=value.orelse)
    else:
        return
    yield Splice(length=1, statements=[ast.If(test=value.test, body=[yes], orelse=[no])])


def branches_to_ternary(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`if c: x = a else: x = b` (or two returns) as one statement with `a if c else b`."""
    node = block.statements[start]
    if not isinstance(node, ast.If) or len(node.body) != 1 or len(node.orelse) != 1:
        return
    yes, no = node.body[0], node.orelse[0]
    if isinstance(yes, ast.Return) and isinstance(no, ast.Return) and yes.value and no.value:
        value = ast.IfExp(test=node.test, body=yes.value, orelse=no.value)
        yield Splice(length=1, statements=[ast.Return(value=value)])
    elif isinstance(yes, ast.Assign) and isinstance(no, ast.Assign):
        name = assigned_name(yes)
        if name and name == assigned_name(no):
            value = ast.IfExp(test=node.test, body=yes.value, orelse=no.value)
            yield Splice(length=1, statements=[assign(name, value)])


def return_to_branches(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`return a == b` as `if a == b: return True else: return False`."""
    node = block.statements[start]
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Compare):
        yes, no = (ast.Return(value=ast.Constant(value=value)) for value in (True, False))
        yield Splice(length=1, statements=[ast.If(test=node.value, body=[yes], orelse=[no])])


def expand_augmented(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`x += 1` as `x = x + 1`; only numbers, because a list would be changed in place."""
    node = block.statements[start]
    if isinstance(node, ast.AugAssign) and is_number(node.value) and is_pure(node.target):
        read = copy.deepcopy(node.target)
        read.ctx = ast.Load()
        value = ast.BinOp(left=read, op=node.op, right=node.value)
        yield Splice(length=1, statements=[ast.Assign(targets=[node.target], value=value)])


def contract_augmented(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`x = x + 1` as `x += 1`."""
    node = block.statements[start]
    name = assigned_name(node)
    if name and isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
        left = node.value.left
        if isinstance(left, ast.Name) and left.id == name and is_number(node.value.right):
            target = ast.Name(id=name, ctx=ast.Store())
            short = ast.AugAssign(target=target, op=node.value.op, value=node.value.right)
            yield Splice(length=1, statements=[short])


def name_return_value(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`return e` as `result = e`, `return result`."""
    node = block.statements[start]
    if isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Name):
        name = fresh_name(scope)
        named = [assign(name, node.value), ast.Return(value=load(name))]
        yield Splice(length=1, statements=named)


def inline_return_value(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`result = e`, `return result` as `return e`."""
    pair = block.statements[start : start + 2]
    if len(pair) == 2 and isinstance(pair[0], ast.Assign) and isinstance(pair[1], ast.Return):
        name, returned = assigned_name(pair[0]), pair[1].value
        is_same = isinstance(returned, ast.Name) and returned.id == name
        if name and is_same and not _is_seen_elsewhere(scope, name):
            yield Splice(length=2, statements=[ast.Return(value=pair[0].value)])


def _is_seen_elsewhere(scope: Scope, name: str) -> bool:
    """Whether something other than the function's plain statements may read the variable."""
    seers = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.Try)
    return any(
        (isinstance(node, seers) and name in loaded_names([node]))
        or (isinstance(node, ast.Global | ast.Nonlocal) and name in node.names)
        for node in ast.walk(scope.function)
        if node is not scope.function
    )


def name_first_value(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """`return f(x) + y` as `value = f(x)`, `return value + y`: the part evaluated first."""
    node = block.statements[start]
    field = {ast.Return: "value", ast.Assign: "value", ast.If: "test", ast.For: "iter"}.get(
        type(node)
    )
    if field is None:
        return
    root = getattr(node, field)
    for depth in range(_first_depth(root)):
        name = fresh_name(scope)
        rest = copy.deepcopy(node)
        value = _replace_first(rest, field, depth, name)
        if not isinstance(value, ast.Name | ast.Constant | ast.Starred | ast.Lambda):
            yield Splice(length=1, statements=[assign(name, value), rest])


def _first_slot(node: ast.expr) -> tuple[ast.AST, str, int | None] | None:
    """Where the part of an expression that is evaluated first hangs."""
    match node:
        case ast.BinOp() | ast.Compare():
            return node, "left", None
        case ast.Call(func=ast.Name(), args=[_, *_]):
            return node, "args", 0
        case ast.Call(func=ast.Attribute() as function):
            return function, "value", None
        case ast.Subscript():
            return node, "value", None
        case ast.IfExp():
            return node, "test", None
        case ast.BoolOp():
            return node, "values", 0
        case ast.UnaryOp():
            return node, "operand", None
    return None


def _get(slot: tuple[ast.AST, str, int | None]) -> ast.expr:
    parent, field, index = slot
    value = getattr(parent, field)
    child: ast.expr = value if index is None else value[index]
    return child


def _first_depth(root: ast.expr | None) -> int:
    depth = 0
    while root is not None:
        slot = _first_slot(root)
        root = _get(slot) if slot else None
        depth += 1
    return depth


def _replace_first(statement: ast.stmt, field: str, depth: int, name: str) -> ast.expr:
    slot: tuple[ast.AST, str, int | None] = (statement, field, None)
    for _ in range(depth):
        deeper = _first_slot(_get(slot))
        assert deeper is not None, "depth was counted on an equal tree"
        slot = deeper
    value = _get(slot)
    parent, last_field, index = slot
    if index is None:
        setattr(parent, last_field, load(name))
    else:
        getattr(parent, last_field)[index] = load(name)
    return value


def swap_assignments(block: Block, start: int, scope: Scope) -> Iterator[Splice]:
    """Two neighbouring assignments that do not see each other, in the other order."""
    pair = block.statements[start : start + 2]
    if len(pair) == 2 and isinstance(pair[0], ast.Assign) and isinstance(pair[1], ast.Assign):
        first, second = assigned_name(pair[0]), assigned_name(pair[1])
        are_literal = _is_literal(pair[0].value) and _is_literal(pair[1].value)
        if first and second and first != second and are_literal:
            yield Splice(length=2, statements=pair[::-1])


def _is_literal(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return all(_is_literal(element) for element in value.elts)
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Dict) and not value.keys)
