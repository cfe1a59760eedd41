"""Rewrites that keep what a function does: of expressions, branches, assignments and names."""

import ast
import copy
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import Place, Rules, Scope
from featurize.data.prepare.from_tests.nodes import (
    OPPOSITE,
    assign,
    assigned_name,
    call,
    guard,
    is_number,
    is_pure,
    is_zero,
    load,
    loaded_names,
    negate,
    other_connective,
    replace,
)
from featurize.data.prepare.from_tests.rewrites_loops import LOOP_REWRITES

REWRITES = Rules(LOOP_REWRITES)

_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}
# Functions that read their iterable to the end, so a list and a generator are the same to them.
_CONSUMERS = frozenset({"sum", "max", "min", "sorted", "set", "tuple", "list", "dict"})
_JUMPS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
# The field of a node that is evaluated before the others; of calls see `_first_places`.
_EVALUATED_FIRST: dict[type[ast.AST], str] = {
    **{ast.Return: "value", ast.Assign: "value", ast.Subscript: "value"},
    **{ast.If: "test", ast.IfExp: "test", ast.For: "iter"},
    **{ast.BinOp: "left", ast.Compare: "left", ast.BoolOp: "values", ast.UnaryOp: "operand"},
}


@REWRITES.add("flip comparison")
def flip_comparison(place: Place) -> Iterator[ast.expr]:
    """`a < b` to `b > a`."""
    match place.node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) as node:
            if type(op) in _FLIPPED and is_pure(node):
                yield ast.Compare(left=right, ops=[_FLIPPED[type(op)]()], comparators=[left])


@REWRITES.add("negate twice")
def negate_twice(place: Place) -> Iterator[ast.expr]:
    """`a == b` to `not a != b`."""
    match place.node:
        case ast.Compare(ops=[op]) as node if type(op) in OPPOSITE:
            yield ast.UnaryOp(op=ast.Not(), operand=negate(node))


@REWRITES.add("De Morgan")
def apply_de_morgan(place: Place) -> Iterator[ast.expr]:
    """`a and b` to `not (not a or not b)`, if only the truth matters."""
    match place.node:
        case ast.BoolOp(op=op, values=values) if place.is_test:
            negated = ast.BoolOp(op=other_connective(op), values=list(map(negate, values)))
            yield ast.UnaryOp(op=ast.Not(), operand=negated)


@REWRITES.add("split chain")
def split_chain(place: Place) -> Iterator[ast.expr]:
    """`a < b < c` to `a < b and b < c`."""
    match place.node:
        case ast.Compare(left=left, ops=[op, next_op], comparators=[middle, right]) as node:
            if is_pure(node):
                first = ast.Compare(left=left, ops=[op], comparators=[middle])
                again = copy.deepcopy(middle)
                second = ast.Compare(left=again, ops=[next_op], comparators=[right])
                yield ast.BoolOp(op=ast.And(), values=[first, second])


@REWRITES.add("commute")
def commute(place: Place) -> Iterator[ast.expr]:
    """`a * b` to `b * a`; `a + b` only with a number, because strings and lists have an order."""
    match place.node:
        case ast.BinOp(left=left, op=ast.Mult() | ast.Add() as op, right=right) as node:
            has_number = is_number(left) or is_number(right)
            if is_pure(node) and (has_number or isinstance(op, ast.Mult)):
                yield ast.BinOp(left=right, op=op, right=left)


@REWRITES.add("range form")
def change_range_form(place: Place) -> Iterator[ast.expr]:
    """`range(n)` to `range(0, n)` and back."""
    match place.node:
        case ast.Call(func=ast.Name(id="range") as function, args=args, keywords=[]):
            match args:
                case [*_, ast.Starred()] | [ast.Starred(), _]:
                    pass
                case [stop]:
                    yield call(function, ast.Constant(value=0), stop)
                case [start, stop] if is_zero(start):
                    yield call(function, stop)
                case [_, _]:
                    yield call(function, *args, ast.Constant(value=1))


@REWRITES.add("slice form")
def change_slice_form(place: Place) -> Iterator[ast.expr]:
    """`x[:n]` to `x[0:n]` and back."""
    match place.node:
        case ast.Slice(lower=None, step=None) as node:
            yield replace(node, lower=ast.Constant(value=0))
        case ast.Slice(step=None) as node if is_zero(node.lower):
            yield replace(node, lower=None)


@REWRITES.add("swap ternary")
def swap_ternary(place: Place) -> Iterator[ast.expr]:
    """`a if c else b` to `b if not c else a`."""
    match place.node:
        case ast.IfExp(test=test, body=yes, orelse=no):
            yield ast.IfExp(test=negate(test), body=no, orelse=yes)


@REWRITES.add("generator form")
def change_generator_form(place: Place) -> Iterator[ast.expr]:
    """`sum([f(x) for x in y])` to `sum(f(x) for x in y)` and back."""
    match place.parent:
        case ast.Call(func=ast.Name(id=name), args=[_]) if name in _CONSUMERS:
            pass
        case ast.Call(func=ast.Attribute(attr="join"), args=[_]):
            pass
        case _:
            return
    match place.field, place.node:
        case "args", ast.ListComp(elt=element, generators=generators):
            yield ast.GeneratorExp(elt=element, generators=generators)
        case "args", ast.GeneratorExp(elt=element, generators=generators):
            yield ast.ListComp(elt=element, generators=generators)


@REWRITES.add("wrap list")
def wrap_list(place: Place) -> Iterator[ast.expr]:
    """`[f(x) for x in y]` to `list(f(x) for x in y)`."""
    match place.node:
        case ast.ListComp(elt=element, generators=generators):
            if not place.scope.is_shadowed("list"):
                yield call(load("list"), ast.GeneratorExp(elt=element, generators=generators))


@REWRITES.add("swap alternatives")
def swap_alternatives(place: Place) -> Iterator[ast.expr]:
    """`a or b` to `b or a`, if only the truth matters and neither side can fail.

    A side that indexes or divides may be guarded by the other side, so it stays.
    """
    cannot_fail = (ast.Name, ast.Constant, ast.Compare, ast.Eq, ast.NotEq, ast.expr_context)
    match place.node:
        case ast.BoolOp(op=op, values=[left, right]) if place.is_test:
            if all(isinstance(part, cannot_fail) for part in (*ast.walk(left), *ast.walk(right))):
                yield ast.BoolOp(op=op, values=[right, left])


@REWRITES.add("rename variable")
def rename_variable(place: Place) -> Iterator[list[ast.stmt]]:
    """Another name for a local variable, in the whole function."""
    function = place.scope.function
    if place.node is function:
        for name in place.scope.renameable_names():
            is_index = len(name) == 1 or name.startswith(("i", "j", "k"))
            renamed = copy.deepcopy(function)
            _rename(renamed, name, place.scope.fresh_name(is_index=is_index))
            yield [renamed]


def _rename(function: ast.FunctionDef, old: str, new: str) -> None:
    for node in ast.walk(function):
        match node:
            case ast.Name(id=name) if name == old:
                node.id = new
            case ast.arg(arg=name) if name == old:
                node.arg = new
            case ast.Nonlocal(names=names):
                node.names = [new if name == old else name for name in names]


@REWRITES.add("swap branches")
def swap_branches(place: Place) -> Iterator[list[ast.stmt]]:
    """`if c: A else: B` to `if not c: B else: A`."""
    match place.node:
        case ast.If(test=test, body=yes, orelse=[_, *_] as no):
            yield [ast.If(test=negate(test), body=no, orelse=yes)]


@REWRITES.add("guard to else", length=None)
def guard_to_else(place: Place) -> Iterator[list[ast.stmt]]:
    """`if c: return a` and what follows to `if c: return a else: ...`."""
    match place.node:
        case ast.If(body=[*_, last], orelse=[]) as node if place.rest and isinstance(last, _JUMPS):
            yield [replace(node, orelse=place.rest)]


@REWRITES.add("else to guard")
def else_to_guard(place: Place) -> Iterator[list[ast.stmt]]:
    """`if c: return a else: B` to `if c: return a`, then B."""
    match place.node:
        case ast.If(body=[*_, last], orelse=[_, *_] as other) as node if isinstance(last, _JUMPS):
            yield [replace(node, orelse=[]), *other]


@REWRITES.add("nest condition")
def nest_condition(place: Place) -> Iterator[list[ast.stmt]]:
    """`if a and b: A` to `if a: if b: A`, and back."""
    match place.node:
        case ast.If(test=ast.BoolOp(op=ast.And(), values=[first, second]), body=body, orelse=[]):
            yield [guard(first, guard(second, *body))]
        case ast.If(test=first, body=[ast.If(test=second, body=body, orelse=[])], orelse=[]):
            yield [guard(ast.BoolOp(op=ast.And(), values=[first, second]), *body)]


@REWRITES.add("ternary to branches")
def ternary_to_branches(place: Place) -> Iterator[list[ast.stmt]]:
    """`x = a if c else b` (or a return of it) to an if statement with two branches."""
    match place.node:
        case (
            ast.Return(value=ast.IfExp() as value)
            | ast.Assign(targets=[ast.Name()], value=ast.IfExp() as value)
        ) as node:
            yes = replace(node, value=value.body)
            no = replace(copy.deepcopy(node), value=value.orelse)
            yield [ast.If(test=value.test, body=[yes], orelse=[no])]


@REWRITES.add("branches to ternary")
def branches_to_ternary(place: Place) -> Iterator[list[ast.stmt]]:
    """`if c: x = a else: x = b` (or two returns) to one statement with `a if c else b`."""
    match place.node:
        case ast.If(
            test=test,
            body=[ast.Return(value=ast.expr() as yes)],
            orelse=[ast.Return(value=ast.expr() as no)],
        ):
            yield [ast.Return(value=ast.IfExp(test=test, body=yes, orelse=no))]
        case ast.If(
            test=test,
            body=[ast.Assign(targets=[ast.Name(id=name)], value=yes)],
            orelse=[ast.Assign(targets=[ast.Name(id=same)], value=no)],
        ) if name == same:
            yield [assign(name, ast.IfExp(test=test, body=yes, orelse=no))]


@REWRITES.add("return to branches")
def return_to_branches(place: Place) -> Iterator[list[ast.stmt]]:
    """`return a == b` to `if a == b: return True else: return False`."""
    match place.node:
        case ast.Return(value=ast.Compare() as test):
            yes, no = (ast.Return(value=ast.Constant(value=value)) for value in (True, False))
            yield [ast.If(test=test, body=[yes], orelse=[no])]


@REWRITES.add("expand augmented")
def expand_augmented(place: Place) -> Iterator[list[ast.stmt]]:
    """`x += 1` to `x = x + 1`; only numbers, because a list would be changed in place."""
    match place.node:
        case ast.AugAssign(target=target, op=op, value=number):
            if is_number(number) and is_pure(target):
                read = replace(copy.deepcopy(target), ctx=ast.Load())
                value = ast.BinOp(left=read, op=op, right=number)
                yield [ast.Assign(targets=[target], value=value)]


@REWRITES.add("contract augmented")
def contract_augmented(place: Place) -> Iterator[list[ast.stmt]]:
    """`x = x + 1` to `x += 1`."""
    match place.node:
        case ast.Assign(
            targets=[ast.Name(id=name) as target],
            value=ast.BinOp(left=ast.Name(id=read), op=op, right=right),
        ) if name == read and is_number(right):
            yield [ast.AugAssign(target=target, op=op, value=right)]


@REWRITES.add("name return value")
def name_return_value(place: Place) -> Iterator[list[ast.stmt]]:
    """`return e` to `result = e`, `return result`."""
    match place.node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Name):
            name = place.scope.fresh_name()
            yield [assign(name, value), ast.Return(value=load(name))]


@REWRITES.add("inline return value", length=2)
def inline_return_value(place: Place) -> Iterator[list[ast.stmt]]:
    """`result = e`, `return result` to `return e`."""
    match place.node, place.rest:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value),
            [ast.Return(value=ast.Name(id=returned)), *_],
        ) if name == returned and not _is_seen_elsewhere(place.scope.function, name):
            yield [ast.Return(value=value)]


def _is_seen_elsewhere(function: ast.FunctionDef, name: str) -> bool:
    """Whether something other than the function's plain statements may read the variable."""
    readers = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.Try)
    return any(
        (isinstance(node, readers) and name in loaded_names(node))
        or (isinstance(node, ast.Global | ast.Nonlocal) and name in node.names)
        for node in ast.walk(function)
        if node is not function
    )


@REWRITES.add("name first value")
def name_first_value(place: Place) -> Iterator[list[ast.stmt]]:
    """`return f(x) + y` to `value = f(x)`, `return value + y`: the part evaluated first."""
    if not isinstance(place.node, ast.stmt):
        return
    for depth in range(len(_first_places(place.scope, place.node))):
        name = place.scope.fresh_name()
        rest = copy.deepcopy(place.node)
        first = _first_places(place.scope, rest)[depth]
        value = first.node
        if not isinstance(value, ast.stmt | ast.Name | ast.Constant | ast.Starred | ast.Lambda):
            first.put(load(name))
            yield [assign(name, value), rest]


def _first_places(scope: Scope, node: ast.AST) -> list[Place]:
    """List the expression evaluated first, the part of it evaluated first, and so on."""
    match node:
        case ast.Call(func=ast.Name(), args=[_, *_]):
            field = "args"
        case ast.Call(func=ast.Attribute() as method):
            node, field = method, "value"
        case _:
            field = _EVALUATED_FIRST.get(type(node), "")
    value = getattr(node, field, None)
    if value is None:
        return []
    index, part = (0, value[0]) if isinstance(value, list) else (None, value)
    first = Place(scope=scope, parent=node, field=field, index=index, node=part)
    return [first, *_first_places(scope, part)]


@REWRITES.add("swap assignments", length=2)
def swap_assignments(place: Place) -> Iterator[list[ast.stmt]]:
    """Two consecutive assignments of literals, in the other order."""
    match place.node, place.rest:
        case ast.Assign(value=one) as first, [ast.Assign(value=other) as second, *_]:
            names = {assigned_name(first), assigned_name(second)}
            if len(names - {None}) == 2 and _is_literal(one) and _is_literal(other):
                yield [second, first]


def _is_literal(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return all(map(_is_literal, value.elts))
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Dict) and not value.keys)
