"""The catalogue of mutations: small programming mistakes, each likely to give wrong results."""

import ast
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import Place, Rules
from featurize.data.prepare.from_tests.nodes import (
    load,
    other_connective,
    parameters,
    replace,
    stored_names,
)

MUTATIONS = Rules()

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


MUTATIONS.write(
    "operand order",
    ("A @ B", "B @ A"),
    when=lambda place, parts: not isinstance(parts["@"], ast.Mult),
)
MUTATIONS.write("lost operand", ("A and B", "A", "B"), ("A or B", "A", "B"), ("A @ B", "A"))
MUTATIONS.write("ternary", ("A if C else B", "B if C else A"))
MUTATIONS.write("lost condition", ("if A: THEN", "THEN"))
MUTATIONS.write("jump", ("break", "continue"), ("continue", "break"))


@MUTATIONS.add("comparison")
def change_comparison(place: Place) -> Iterator[ast.expr]:
    """`a < b` to `a <= b` or `a > b`."""
    node = place.node
    if isinstance(node, ast.Compare):
        for position, old in enumerate(node.ops):
            for new in _COMPARISONS[type(old)]:
                yield replace(node, ops=[*node.ops[:position], new(), *node.ops[position + 1 :]])


@MUTATIONS.add("number")
def change_number(place: Place) -> Iterator[ast.expr]:
    """An integer that is one too high or one too low."""
    node = place.node
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value - 1, node.value + 1):
            if value >= 0:  # a negative literal is an operator and a number, and would be noticed
                yield ast.Constant(value=value)


@MUTATIONS.add("constant")
def change_constant(place: Place) -> Iterator[ast.expr]:
    """True to False, and a text without its first or last character."""
    match place.node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(value=str(value)) if len(value) > 1:
            yield ast.Constant(value=value[1:])
            yield ast.Constant(value=value[:-1])


@MUTATIONS.add("operator")
def change_operator(place: Place) -> Iterator[ast.expr]:
    """`a + b` to `a - b`, `/` to `//` and so on."""
    node = place.node
    if isinstance(node, ast.BinOp):
        for new in _OPERATORS.get(type(node.op), ()):
            yield replace(node, op=new())


@MUTATIONS.add("and/or")
def swap_and_or(place: Place) -> Iterator[ast.expr]:
    """`a and b` to `a or b`."""
    node = place.node
    if isinstance(node, ast.BoolOp):
        yield replace(node, op=other_connective(node.op))


@MUTATIONS.add("negation")
def change_negation(place: Place) -> Iterator[ast.expr]:
    """`not a` to `a`, and a condition negated (a comparison has its own rule)."""
    match place.parent, place.node:
        case _, ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case (ast.UnaryOp(), _) | (_, ast.Compare()):
            pass
        case _, ast.expr() as node if place.is_test:
            yield ast.UnaryOp(op=ast.Not(), operand=node)


@MUTATIONS.add("bound")
def shift_bound(place: Place) -> Iterator[ast.expr]:
    """An index, a slice bound or the end of a range that is off by one."""
    match place.parent, place.field:
        case ast.Call(func=ast.Name(id="range")), "args":
            pass
        case (ast.Slice(), "lower" | "upper") | (ast.Subscript(), "slice"):
            pass
        case _:
            return
    if isinstance(place.node, ast.Name | ast.Call | ast.BinOp):
        for operator in (ast.Add(), ast.Sub()):
            yield ast.BinOp(left=place.node, op=operator, right=ast.Constant(value=1))


@MUTATIONS.add("slice")
def change_slice(place: Place) -> Iterator[ast.expr]:
    """A slice without its step, or without one of its bounds."""
    match place.node:
        case ast.Slice(step=ast.expr()) as node:
            yield replace(node, step=None)
        case ast.Slice(lower=ast.expr(), upper=ast.expr()) as node:
            yield replace(node, upper=None)
            yield replace(node, lower=None)


@MUTATIONS.add("variable")
def change_variable(place: Place) -> Iterator[ast.expr]:
    """Another variable of the same function."""
    is_called = isinstance(place.parent, ast.Call) and place.field == "func"
    if isinstance(place.node, ast.Name) and not is_called:
        function = place.scope.function
        names = {*parameters(function), *stored_names(function)}
        if place.node.id in names:
            yield from map(load, sorted(names - {place.node.id}))


@MUTATIONS.add("function")
def change_function(place: Place) -> Iterator[ast.expr]:
    """`min` to `max`, `upper` to `lower`, and a forgotten `sorted` or `abs`."""
    match place.node:
        case ast.Call(func=ast.Name(id=name)) as node if name in _FUNCTIONS:
            yield replace(node, func=load(_FUNCTIONS[name]))
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in _FORGETTABLE:
            yield first
        case ast.Call(func=ast.Attribute(attr=name) as function) as node if name in _METHODS:
            yield replace(node, func=replace(function, attr=_METHODS[name]))
        case ast.Call(func=ast.Attribute(value=value), args=[]):
            if isinstance(place.parent, ast.expr):
                yield value


@MUTATIONS.add("argument order")
def swap_arguments(place: Place) -> Iterator[ast.expr]:
    """The first two arguments of a call in the wrong order."""
    match place.node:
        case ast.Call(args=[first, second, *rest]) as node:
            yield replace(node, args=[second, first, *rest])


@MUTATIONS.add("lost statement")
def drop_statement(place: Place) -> Iterator[list[ast.stmt]]:
    """A forgotten statement: a whole guard, a loop's step, an else branch."""
    is_alone = not place.index and not place.rest
    match place.node:
        case ast.If(orelse=[_, *_]) as node:
            yield [replace(node, orelse=[])]
        case ast.FunctionDef() | ast.Return():
            pass
        case ast.stmt() if not is_alone:
            yield []


@MUTATIONS.add("step")
def change_step(place: Place) -> Iterator[list[ast.stmt]]:
    """`x += y` to `x -= y` or to `x = y`."""
    node = place.node
    if isinstance(node, ast.AugAssign):
        for new in _OPERATORS.get(type(node.op), ()):
            yield [replace(node, op=new())]
        yield [ast.Assign(targets=[node.target], value=node.value)]
