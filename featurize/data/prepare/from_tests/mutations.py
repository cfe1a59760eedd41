"""The catalogue of mutations: small programming mistakes, each likely to give wrong results."""

import ast
from collections.abc import Iterator
from functools import partial

from featurize.data.prepare.from_tests.edits import (
    Block,
    Catalogue,
    Edit,
    Slot,
    on_blocks,
    on_expressions,
    on_statements,
)
from featurize.data.prepare.from_tests.names import Scope, parameters, stored_names
from featurize.data.prepare.from_tests.nodes import load, other_connective, replace

MUTATIONS = Catalogue()

# Mostly swaps in both directions: if `==` often became `>=` and never the reverse, `>=` alone would
# be a sign of an incorrect program.
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Div: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd, ast.BitXor),
    ast.BitXor: (ast.BitOr,),
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor"}
_METHODS = {
    **{"upper": "lower", "lower": "upper", "isupper": "islower", "islower": "isupper"},
    **{"startswith": "endswith", "endswith": "startswith", "find": "rfind", "index": "count"},
    **{"ceil": "floor", "floor": "ceil", "isalpha": "isalnum", "isdigit": "isalpha"},
    **{"keys": "values", "values": "keys", "lstrip": "rstrip", "rstrip": "lstrip"},
}
# Calls that are easily forgotten and whose argument often has the type of the result.
_FORGETTABLE = frozenset({"abs", "sorted", "set", "list", "round", "int", "reversed", "str"})


@MUTATIONS.add("comparison", on_expressions)
def change_comparison(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a < b` to `a <= b` or `a > b`."""
    node = slot.node
    if isinstance(node, ast.Compare):
        for position, old in enumerate(node.ops):
            for new in _COMPARISONS[type(old)]:
                yield replace(node, ops=[*node.ops[:position], new(), *node.ops[position + 1 :]])


@MUTATIONS.add("number", on_expressions)
def change_number(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """An integer that is one too high or one too low."""
    node = slot.node
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value - 1, node.value + 1):
            if value >= 0:  # a negative literal is an operator and a number, and would be noticed
                yield ast.Constant(value=value)


@MUTATIONS.add("constant", on_expressions)
def change_constant(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """True to False, and a text without its first or last character."""
    match slot.node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(value=str(value)) if len(value) > 1:
            yield ast.Constant(value=value[1:])
            yield ast.Constant(value=value[:-1])


@MUTATIONS.add("operator", on_expressions)
def change_operator(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a + b` to `a - b`, `/` to `//` and so on."""
    node = slot.node
    if isinstance(node, ast.BinOp):
        for new in _OPERATORS.get(type(node.op), ()):
            yield replace(node, op=new())


@MUTATIONS.add("operand order", on_expressions)
def swap_operands(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a - b` to `b - a`."""
    node = slot.node
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Mult):
        yield replace(node, left=node.right, right=node.left)


@MUTATIONS.add("and/or", on_expressions)
def swap_and_or(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`a and b` to `a or b`."""
    node = slot.node
    if isinstance(node, ast.BoolOp):
        yield replace(node, op=other_connective(node.op))


@MUTATIONS.add("lost operand", on_expressions)
def drop_operand(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """One of two conditions, or the right side of an operator, forgotten."""
    match slot.node:
        case ast.BoolOp(values=[left, right]):
            yield left
            yield right
        case ast.BinOp(left=left):
            yield left


@MUTATIONS.add("negation", on_expressions)
def change_negation(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`not a` to `a`, and a condition negated (a comparison has its own rule)."""
    match slot.parent, slot.node:
        case _, ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.UnaryOp(), _:
            pass
        case _, node if slot.is_test and not isinstance(node, ast.Compare):
            yield ast.UnaryOp(op=ast.Not(), operand=node)


@MUTATIONS.add("bound", on_expressions)
def shift_bound(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """An index, a slice bound or the end of a range that is off by one."""
    match slot.parent, slot.field:
        case ast.Call(func=ast.Name(id="range")), "args":
            pass
        case (ast.Slice(), "lower" | "upper") | (ast.Subscript(), "slice"):
            pass
        case _:
            return
    if isinstance(slot.node, ast.Name | ast.Call | ast.BinOp):
        for operator in (ast.Add(), ast.Sub()):
            yield ast.BinOp(left=slot.node, op=operator, right=ast.Constant(value=1))


@MUTATIONS.add("slice", on_expressions)
def change_slice(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """A slice without its step, or without one of its bounds."""
    node = slot.node
    if isinstance(node, ast.Slice):
        if node.step:
            yield replace(node, step=None)
        elif node.lower and node.upper:
            yield replace(node, upper=None)
            yield replace(node, lower=None)


@MUTATIONS.add("variable", on_expressions)
def change_variable(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """Another variable of the same function."""
    is_called = isinstance(slot.parent, ast.Call) and slot.field == "func"
    if isinstance(slot.node, ast.Name) and not is_called:
        names = {*parameters(scope.function), *stored_names([scope.function])}
        if slot.node.id in names:
            yield from map(load, sorted(names - {slot.node.id}))


@MUTATIONS.add("function", on_expressions)
def change_function(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """`min` to `max`, `upper` to `lower`, and a forgotten `sorted` or `abs`."""
    match slot.node:
        case ast.Call(func=ast.Name(id=name)) as node if name in _FUNCTIONS:
            yield replace(node, func=load(_FUNCTIONS[name]))
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in _FORGETTABLE:
            yield first
        case ast.Call(func=ast.Attribute(attr=name) as function) as node if name in _METHODS:
            yield replace(node, func=replace(function, attr=_METHODS[name]))
        case ast.Call(func=ast.Attribute(value=value), args=[]):
            if isinstance(slot.parent, ast.expr):
                yield value


@MUTATIONS.add("argument order", on_expressions)
def swap_arguments(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """The first two arguments of a call in the wrong order."""
    match slot.node:
        case ast.Call(args=[first, second, *rest]) as node:
            yield replace(node, args=[second, first, *rest])


@MUTATIONS.add("ternary", on_expressions)
def swap_ternary(slot: Slot, scope: Scope) -> Iterator[ast.expr]:
    """The two values of `a if c else b` in the wrong order."""
    node = slot.node
    if isinstance(node, ast.IfExp):
        yield replace(node, body=node.orelse, orelse=node.body)


@MUTATIONS.add("lost statement", on_blocks)
def drop_statement(block: Block, start: int, scope: Scope) -> Iterator[Edit]:
    """A forgotten statement: a whole guard, a loop's step, an else branch."""
    node = block.statements[start]
    if isinstance(node, ast.If) and node.orelse:
        yield partial(block.put, start, 1, [replace(node, orelse=[])])
    elif len(block.statements) > 1 and not isinstance(node, ast.FunctionDef | ast.Return):
        yield partial(block.put, start, 1, [])


@MUTATIONS.add("lost condition", on_statements)
def drop_condition(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`if c: A` to A alone: the condition forgotten."""
    if isinstance(node, ast.If) and not node.orelse:
        yield node.body


@MUTATIONS.add("jump", on_statements)
def change_jump(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`break` to `continue`, and `continue` to `break`."""
    if isinstance(node, ast.Break):
        yield [ast.Continue()]
    elif isinstance(node, ast.Continue):
        yield [ast.Break()]


@MUTATIONS.add("step", on_statements)
def change_step(node: ast.stmt, scope: Scope) -> Iterator[list[ast.stmt]]:
    """`x += y` to `x -= y` or to `x = y`."""
    if isinstance(node, ast.AugAssign):
        for new in _OPERATORS.get(type(node.op), ()):
            yield [replace(node, op=new())]
        yield [ast.Assign(targets=[node.target], value=node.value)]
