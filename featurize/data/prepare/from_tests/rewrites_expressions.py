"""Rewrites of expressions that keep their value: flipped comparisons, De Morgan, range(0, n) ..."""

import ast
import copy
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import Catalogue, Slot, on_expressions
from featurize.data.prepare.from_tests.names import Scope, is_shadowed
from featurize.data.prepare.from_tests.nodes import (
    OPPOSITE,
    call,
    is_constant,
    is_number,
    is_pure,
    load,
    negate,
    other_connective,
    replace,
)

EXPRESSION_REWRITES = Catalogue()

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


@EXPRESSION_REWRITES.add("flip comparison", on_expressions)
def flip_comparison(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a < b` to `b > a`."""
    match slot.node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) as node:
            if type(op) in _FLIPPED and is_pure(node):
                yield ast.Compare(left=right, ops=[_FLIPPED[type(op)]()], comparators=[left])


@EXPRESSION_REWRITES.add("negate twice", on_expressions)
def negate_twice(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a == b` to `not a != b`."""
    match slot.node:
        case ast.Compare(ops=[op]) if type(op) in OPPOSITE:
            yield ast.UnaryOp(op=ast.Not(), operand=negate(slot.node))


@EXPRESSION_REWRITES.add("De Morgan", on_expressions)
def apply_de_morgan(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a and b` to `not (not a or not b)`, if only the truth matters."""
    node = slot.node
    if isinstance(node, ast.BoolOp) and slot.is_test:
        values = [negate(value) for value in node.values]
        negated = ast.BoolOp(op=other_connective(node.op), values=values)
        yield ast.UnaryOp(op=ast.Not(), operand=negated)


@EXPRESSION_REWRITES.add("split chain", on_expressions)
def split_chain(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a < b < c` to `a < b and b < c`."""
    match slot.node:
        case ast.Compare(left=left, ops=[op, next_op], comparators=[middle, right]) as node:
            if is_pure(node):
                first = ast.Compare(left=left, ops=[op], comparators=[middle])
                again = copy.deepcopy(middle)
                second = ast.Compare(left=again, ops=[next_op], comparators=[right])
                yield ast.BoolOp(op=ast.And(), values=[first, second])


@EXPRESSION_REWRITES.add("commute", on_expressions)
def commute(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a * b` to `b * a`; `a + b` only with a number, because strings and lists have an order."""
    match slot.node:
        case ast.BinOp(left=left, op=ast.Mult() | ast.Add() as op, right=right) as node:
            has_number = is_number(left) or is_number(right)
            if is_pure(node) and (has_number or isinstance(op, ast.Mult)):
                yield ast.BinOp(left=right, op=op, right=left)


@EXPRESSION_REWRITES.add("range form", on_expressions)
def change_range_form(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`range(n)` to `range(0, n)` and back."""
    match slot.node:
        case ast.Call(func=ast.Name(id="range") as function, args=args, keywords=[]):
            if any(isinstance(value, ast.Starred) for value in args):
                return
            if len(args) == 1:
                yield call(function, ast.Constant(value=0), *args)
            elif len(args) == 2 and is_constant(args[0], 0):
                yield call(function, args[1])
            elif len(args) == 2:
                yield call(function, *args, ast.Constant(value=1))


@EXPRESSION_REWRITES.add("slice form", on_expressions)
def change_slice_form(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`x[:n]` to `x[0:n]` and back."""
    match slot.node:
        case ast.Slice(lower=None, step=None) as node:
            yield replace(node, lower=ast.Constant(value=0))
        case ast.Slice(step=None) as node if is_constant(node.lower, 0):
            yield replace(node, lower=None)


@EXPRESSION_REWRITES.add("swap ternary", on_expressions)
def swap_ternary(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a if c else b` to `b if not c else a`."""
    node = slot.node
    if isinstance(node, ast.IfExp):
        yield ast.IfExp(test=negate(node.test), body=node.orelse, orelse=node.body)


@EXPRESSION_REWRITES.add("generator form", on_expressions)
def change_generator_form(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`sum([f(x) for x in y])` to `sum(f(x) for x in y)` and back."""
    match slot.parent:
        case ast.Call(func=ast.Name(id=name), args=[_]) if name in _CONSUMERS:
            pass
        case ast.Call(func=ast.Attribute(attr="join"), args=[_]):
            pass
        case _:
            return
    match slot.field, slot.node:
        case "args", ast.ListComp(elt=element, generators=generators):
            yield ast.GeneratorExp(elt=element, generators=generators)
        case "args", ast.GeneratorExp(elt=element, generators=generators):
            yield ast.ListComp(elt=element, generators=generators)


@EXPRESSION_REWRITES.add("wrap list", on_expressions)
def wrap_list(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`[f(x) for x in y]` to `list(f(x) for x in y)`."""
    node = slot.node
    if isinstance(node, ast.ListComp) and not is_shadowed(scope, "list"):
        yield call(load("list"), ast.GeneratorExp(elt=node.elt, generators=node.generators))


@EXPRESSION_REWRITES.add("swap alternatives", on_expressions)
def swap_alternatives(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a or b` to `b or a`, if only the truth matters and neither side can fail.

    A side that indexes or divides may be guarded by the other side, so it stays.
    """
    cannot_fail = (ast.Name, ast.Constant, ast.Compare, ast.Eq, ast.NotEq, ast.expr_context)
    match slot.node:
        case ast.BoolOp(op=op, values=[left, right]) if slot.is_test:
            parts = [*ast.walk(left), *ast.walk(right)]
            if all(isinstance(part, cannot_fail) for part in parts):
                yield ast.BoolOp(op=op, values=[right, left])
