"""Rewrites of expressions that keep their value: flipped comparisons, De Morgan, range(0, n) ..."""

import ast
import copy
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import Slot
from featurize.data.prepare.from_tests.names import Scope, is_number, is_pure, is_shadowed

_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}
# `<` is not here: `not a < b` and `a >= b` differ for NaN and for sets.
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
# Consumers that read their iterable to the end, so a list and a generator are the same to them.
_CONSUMERS = frozenset({"sum", "max", "min", "sorted", "set", "tuple", "list", "dict"})


def negate(test: ast.expr) -> ast.expr:
    """An expression that is true where `test` is false."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        opposite = _OPPOSITE.get(type(test.ops[0]))
        if opposite:
            return ast.Compare(left=test.left, ops=[opposite()], comparators=test.comparators)
    return ast.UnaryOp(op=ast.Not(), operand=test)


def flip_comparison(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a < b` as `b > a`."""
    node = slot.node
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and is_pure(node):
        flipped = _FLIPPED.get(type(node.ops[0]))
        if flipped:
            yield ast.Compare(left=node.comparators[0], ops=[flipped()], comparators=[node.left])


def negate_twice(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a == b` as `not a != b`."""
    node = slot.node
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPPOSITE:
        yield ast.UnaryOp(op=ast.Not(), operand=negate(node))


def apply_de_morgan(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a and b` as `not (not a or not b)`, where only the truth counts."""
    node = slot.node
    if isinstance(node, ast.BoolOp) and slot.is_test:
        other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        negated = ast.BoolOp(op=other, values=[negate(value) for value in node.values])
        yield ast.UnaryOp(op=ast.Not(), operand=negated)


def split_chain(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a < b < c` as `a < b and b < c`."""
    node = slot.node
    if isinstance(node, ast.Compare) and len(node.ops) == 2 and is_pure(node):
        middle, last = node.comparators
        first = ast.Compare(left=node.left, ops=[node.ops[0]], comparators=[middle])
        second = ast.Compare(left=copy.deepcopy(middle), ops=[node.ops[1]], comparators=[last])
        yield ast.BoolOp(op=ast.And(), values=[first, second])


def commute(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a * b` as `b * a`; `a + b` only with a number, because strings and lists have an order."""
    node = slot.node
    if isinstance(node, ast.BinOp) and is_pure(node):
        has_number = is_number(node.left) or is_number(node.right)
        if isinstance(node.op, ast.Mult) or (isinstance(node.op, ast.Add) and has_number):
            yield ast.BinOp(left=node.right, op=node.op, right=node.left)


def change_range_form(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`range(n)` as `range(0, n)` and back."""
    node = slot.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        return
    if node.func.id != "range" or any(isinstance(value, ast.Starred) for value in node.args):
        return
    if len(node.args) == 1:
        yield ast.Call(func=node.func, args=[ast.Constant(value=0), *node.args], keywords=[])
    elif len(node.args) == 2 and _is_constant(node.args[0], 0):
        yield ast.Call(func=node.func, args=node.args[1:], keywords=[])
    elif len(node.args) == 2:
        yield ast.Call(func=node.func, args=[*node.args, ast.Constant(value=1)], keywords=[])


def _is_constant(node: ast.expr | None, value: int) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value == value


def change_slice_form(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`x[:n]` as `x[0:n]` and back."""
    node = slot.node
    if isinstance(node, ast.Slice) and node.step is None:
        if node.lower is None:
            yield ast.Slice(lower=ast.Constant(value=0), upper=node.upper, step=None)
        elif _is_constant(node.lower, 0):
            yield ast.Slice(lower=None, upper=node.upper, step=None)


def swap_ternary(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a if c else b` as `b if not c else a`."""
    node = slot.node
    if isinstance(node, ast.IfExp):
        yield ast.IfExp(test=negate(node.test), body=node.orelse, orelse=node.body)


def change_generator_form(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`sum([f(x) for x in y])` as `sum(f(x) for x in y)` and back."""
    node = slot.node
    if not isinstance(slot.parent, ast.Call) or slot.field != "args" or len(slot.parent.args) != 1:
        return
    function = slot.parent.func
    reads_all = isinstance(function, ast.Name) and function.id in _CONSUMERS
    joins = isinstance(function, ast.Attribute) and function.attr == "join"
    if not (reads_all or joins):
        return
    if isinstance(node, ast.ListComp):
        yield ast.GeneratorExp(elt=node.elt, generators=node.generators)
    elif isinstance(node, ast.GeneratorExp):
        yield ast.ListComp(elt=node.elt, generators=node.generators)


def wrap_list(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`[f(x) for x in y]` as `list(f(x) for x in y)`."""
    node = slot.node
    if isinstance(node, ast.ListComp) and not is_shadowed(scope, "list"):
        generator = ast.GeneratorExp(elt=node.elt, generators=node.generators)
        yield ast.Call(func=ast.Name(id="list", ctx=ast.Load()), args=[generator], keywords=[])


def swap_equal_alternatives(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a or b` as `b or a`, where only the truth counts and neither side can fail.

    Sides that index or divide may be guarded by the other side, so those stay in place.
    """
    node = slot.node
    if isinstance(node, ast.BoolOp) and len(node.values) == 2 and slot.is_test:
        cannot_fail = (ast.Name, ast.Constant, ast.Compare, ast.Eq, ast.NotEq, ast.expr_context)
        if all(isinstance(part, cannot_fail) for value in node.values for part in ast.walk(value)):
            yield ast.BoolOp(op=node.op, values=node.values[::-1])
