"""Builds nodes of Python's syntax tree, and answers what a rule must know about nodes and names."""

import ast
import copy
from collections.abc import Iterable
from typing import TypeVar

_PURE_FUNCTIONS = frozenset(
    (
        *("abs", "bool", "chr", "divmod", "float", "int", "isinstance", "len", "max", "min"),
        *("ord", "pow", "range", "repr", "round", "str", "sum"),
    )
)
_PURE_METHODS = frozenset(
    (
        *("count", "endswith", "find", "get", "index", "isalnum", "isalpha", "isdigit", "islower"),
        *("isspace", "isupper", "keys", "lower", "lstrip", "replace", "rstrip", "split"),
        *("startswith", "strip", "swapcase", "title", "upper", "values"),
    )
)
_PURE_NODES = (
    *(ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Subscript),
    *(ast.Slice, ast.Tuple, ast.IfExp, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
    *(ast.expr_context, ast.Attribute, ast.keyword),
)
# `<` is not here: `not a < b` and `a >= b` differ for NaN and for sets.
OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
Node = TypeVar("Node", bound=ast.AST)


def replace(node: Node, **fields: object) -> Node:
    """Copy a node with other fields, like dataclasses.replace."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def load(name: str) -> ast.Name:
    """Make the expression `name`."""
    return ast.Name(id=name, ctx=ast.Load())


def negate(test: ast.expr) -> ast.expr:
    """Make an expression that is true exactly if `test` is false."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operand
        case ast.Compare(ops=[op]) if type(op) in OPPOSITE:
            return replace(test, ops=[OPPOSITE[type(op)]()])
    return ast.UnaryOp(op=ast.Not(), operand=test)


def other_connective(operator: ast.boolop) -> ast.boolop:
    """Make `or` of `and`, and `and` of `or`."""
    return ast.Or() if isinstance(operator, ast.And) else ast.And()


def is_pure(expression: ast.AST) -> bool:
    """Whether evaluating it twice, later or never changes nothing (on built-in types)."""
    return all(map(_is_pure_node, ast.walk(expression)))


def _is_pure_node(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in _PURE_FUNCTIONS
        case ast.Call(func=ast.Attribute(attr=name)):
            return name in _PURE_METHODS
    return isinstance(node, _PURE_NODES)


def is_number(expression: ast.expr) -> bool:
    """Whether the expression is certainly an int or a float, so never changed in place."""
    match expression:
        case ast.Constant(value=value):
            return isinstance(value, int | float)
        case ast.Call(func=ast.Name(id=name)):
            return name in {"len", "int", "ord", "float"}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return is_number(operand)
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
    return False


def used_names(root: ast.AST) -> set[str]:
    """Collect every identifier: variables, parameters, functions, keywords, imports."""
    names: set[str] = set()
    for node in ast.walk(root):
        for field in ("id", "arg", "name", "asname", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                names.update(value.split("."))
        if isinstance(node, ast.Global | ast.Nonlocal):
            names.update(node.names)
    return names


def stored_names(*roots: ast.AST) -> set[str]:
    """Collect the variables that these nodes assign or delete."""
    return {node.id for node in _variables(roots) if not isinstance(node.ctx, ast.Load)}


def loaded_names(*roots: ast.AST) -> set[str]:
    """Collect the variables that these nodes read."""
    return {node.id for node in _variables(roots) if isinstance(node.ctx, ast.Load)}


def _variables(roots: Iterable[ast.AST]) -> Iterable[ast.Name]:
    return (node for root in roots for node in ast.walk(root) if isinstance(node, ast.Name))


def parameters(function: ast.FunctionDef | ast.Lambda) -> list[str]:
    """List the names of a function's parameters."""
    return [node.arg for node in ast.iter_child_nodes(function.args) if isinstance(node, ast.arg)]
