"""Rewrites that keep what a function does: of expressions, branches, assignments and names."""

import ast
import copy
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import Place, Rules, Scope
from featurize.data.prepare.from_tests.nodes import (
    OPPOSITE,
    is_number,
    is_pure,
    load,
    loaded_names,
    negate,
    other_connective,
)
from featurize.data.prepare.from_tests.patterns import Parts, code
from featurize.data.prepare.from_tests.rewrites_loops import LOOP_REWRITES

REWRITES = Rules(LOOP_REWRITES)

# Functions that read their iterable to the end, so a list and a generator are the same to them.
_CONSUMERS = frozenset({"sum", "max", "min", "sorted", "set", "tuple", "list", "dict"})
_JUMPS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
# The field of a node that is evaluated before the others; of calls see `_first_places`.
_EVALUATED_FIRST: dict[type[ast.AST], str] = {
    **{ast.Return: "value", ast.Assign: "value", ast.Subscript: "value"},
    **{ast.If: "test", ast.IfExp: "test", ast.For: "iter"},
    **{ast.BinOp: "left", ast.Compare: "left", ast.BoolOp: "values", ast.UnaryOp: "operand"},
}


def _is_short_circuit_safe(place: Place, parts: Parts) -> bool:
    """Whether only the truth of `a or b` matters, and neither side can fail.

    A side that indexes or divides may be guarded by the other side.
    """
    cannot_fail = (ast.Name, ast.Constant, ast.Compare, ast.Eq, ast.NotEq, ast.expr_context)
    sides = (*ast.walk(parts["A"]), *ast.walk(parts["B"]))
    return place.is_test and all(isinstance(part, cannot_fail) for part in sides)


def _commutes(place: Place, parts: Parts) -> bool:
    """Whether sides may be swapped; of `+` only with a number: texts and lists have an order."""
    is_sum = isinstance(parts["@"], ast.Add) and (is_number(parts["A"]) or is_number(parts["B"]))
    return is_pure(place.node) and (is_sum or isinstance(parts["@"], ast.Mult))


def _ends_with_jump(place: Place, parts: Parts) -> bool:
    return isinstance(parts["THEN"][-1], _JUMPS)


def _is_literal(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return all(map(_is_literal, value.elts))
    return isinstance(value, ast.Constant) or (isinstance(value, ast.Dict) and not value.keys)


def _is_seen_elsewhere(function: ast.FunctionDef, name: str) -> bool:
    """Whether something other than the function's plain statements may read the variable."""
    readers = (ast.Lambda, ast.FunctionDef, ast.GeneratorExp, ast.Try)
    return any(
        (isinstance(node, readers) and name in loaded_names(node))
        or (isinstance(node, ast.Global | ast.Nonlocal) and name in node.names)
        for node in ast.walk(function)
        if node is not function
    )


_OPERATORS = (("<", ">"), (">", "<"), ("<=", ">="), (">=", "<="), ("==", "=="), ("!=", "!="))
REWRITES.write(
    "flip comparison",
    *((f"A {operator} B", f"B {flipped} A") for operator, flipped in _OPERATORS),
    when=lambda place, parts: is_pure(place.node),
)
REWRITES.write("commute", ("A @ B", "B @ A"), when=_commutes)
REWRITES.write(
    "range form",
    ("range(A)", "range(0, A)"),
    ("range(0, A)", "range(A)"),
    ("range(A, B)", "range(A, B, 1)"),
)
REWRITES.write("slice form", ("[:A]", "[0:A]"), ("[:]", "[0:]"), ("[0:A]", "[:A]"), ("[0:]", "[:]"))
REWRITES.write("swap ternary", ("A if C else B", "B if NOT(C) else A"))
REWRITES.write(
    "swap alternatives",
    ("A and B", "B and A"),
    ("A or B", "B or A"),
    when=_is_short_circuit_safe,
)
REWRITES.write("swap branches", ("if C: THEN\nelse: ELSE", "if NOT(C): ELSE\nelse: THEN"))
REWRITES.write(
    "guard to else", ("if C: THEN\nREST", "if C: THEN\nelse: REST"), when=_ends_with_jump
)
REWRITES.write(
    "else to guard", ("if C: THEN\nelse: ELSE", "if C: THEN\nELSE"), when=_ends_with_jump
)
REWRITES.write(
    "nest condition",
    ("if A and B: THEN", "if A:\n if B: THEN"),
    ("if A:\n if B: THEN", "if A and B: THEN"),
)
REWRITES.write(
    "ternary to branches",
    ("return A if C else B", "if C: return A\nelse: return B"),
    ("X = A if C else B", "if C: X = A\nelse: X = B"),
)
REWRITES.write(
    "branches to ternary",
    ("if C: return A\nelse: return B", "return A if C else B"),
    ("if C: X = A\nelse: X = B", "X = A if C else B"),
)
REWRITES.write(
    "return to branches",
    ("return A", "if A: return True\nelse: return False"),
    when=lambda place, parts: isinstance(parts["A"], ast.Compare),
)
REWRITES.write(
    "expand augmented",
    ("A @= B", "A = A @ B"),  # only of numbers, because a list would be changed in place
    when=lambda place, parts: is_number(parts["B"]) and is_pure(parts["A"]),
)
REWRITES.write(
    "contract augmented",
    ("X = X @ A", "X @= A"),
    when=lambda place, parts: is_number(parts["A"]),
)
REWRITES.write(
    "name return value",
    ("return A", "NEW = A\nreturn NEW"),
    when=lambda place, parts: not isinstance(parts["A"], ast.Name),
)
REWRITES.write(
    "inline return value",
    ("X = A\nreturn X", "return A"),
    when=lambda place, parts: not _is_seen_elsewhere(place.scope.function, parts["X"].id),
)
REWRITES.write(
    "swap assignments",
    ("X = A\nY = B", "Y = B\nX = A"),
    when=lambda place, parts: (
        parts["X"].id != parts["Y"].id and _is_literal(parts["A"]) and _is_literal(parts["B"])
    ),
)


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
                second = ast.Compare(left=middle, ops=[next_op], comparators=[right])
                yield ast.BoolOp(op=ast.And(), values=[first, second])


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
                yield code("list(A)", A=ast.GeneratorExp(elt=element, generators=generators))


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


@REWRITES.add("name first value")
def name_first_value(place: Place) -> Iterator[list[ast.stmt]]:
    """`return f(x) + y` to `value = f(x)`, `return value + y`: the part evaluated first."""
    if not isinstance(place.node, ast.stmt):
        return
    for depth in range(len(_first_places(place.scope, place.node))):
        name = load(place.scope.fresh_name())
        rest = copy.deepcopy(place.node)
        first = _first_places(place.scope, rest)[depth]
        value = first.node
        if not isinstance(value, ast.stmt | ast.Name | ast.Constant | ast.Starred | ast.Lambda):
            first.put(name)
            yield [*code("X = A", X=name, A=value), rest]


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
