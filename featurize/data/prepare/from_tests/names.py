"""Which names a function binds, which are free to take, and which expressions have no effects."""

import ast
import random
from collections.abc import Iterable
from dataclasses import dataclass

_INDEX_NAMES = ("i", "j", "k", "idx", "index", "pos", "p", "q")
_VALUE_NAMES = (
    *("result", "res", "ans", "answer", "out", "output", "value", "val", "temp", "tmp", "cur"),
    *("item", "items", "total", "acc", "current", "found", "data", "ret", "x", "y", "z", "v", "w"),
)
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
    *(ast.expr_context, ast.Call, ast.Attribute),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The function a rule looks at, and what it may draw names with."""

    module: ast.Module
    function: ast.FunctionDef
    keywords: frozenset[str]  # names some call of the tests gives by keyword
    taken: frozenset[str]  # every identifier of the module
    rng: random.Random


def used_names(root: ast.AST) -> set[str]:
    """Every identifier below `root`: variables, parameters, functions, keywords, imports."""
    names: set[str] = set()
    for node in ast.walk(root):
        for field in ("id", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                names.update(value.split("."))
        if isinstance(node, ast.Global | ast.Nonlocal):
            names.update(node.names)
    return names


def stored_names(nodes: Iterable[ast.AST]) -> set[str]:
    """The variables that these nodes, or anything below them, assign."""
    return {
        node.id
        for root in nodes
        for node in ast.walk(root)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }


def loaded_names(nodes: Iterable[ast.AST]) -> set[str]:
    """The variables that these nodes, or anything below them, read."""
    return {
        node.id
        for root in nodes
        for node in ast.walk(root)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def parameters(function: ast.FunctionDef | ast.Lambda) -> list[str]:
    """The names of a function's parameters in order."""
    arguments = function.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [argument.arg for argument in (*listed, *starred)]


def is_shadowed(scope: Scope, name: str) -> bool:
    """Whether the program gives a built-in function's name to something of its own."""
    for node in ast.walk(scope.module):
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.arg) and node.arg == name:
            return True
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return True
    return False


def fresh_name(scope: Scope, *, is_index: bool = False) -> str:
    """An ordinary-looking name that stands nowhere in the program yet."""
    vocabulary = _INDEX_NAMES if is_index else _VALUE_NAMES
    free = [name for name in vocabulary if name not in scope.taken]
    if free:
        return scope.rng.choice(free)
    number = 2
    while f"{vocabulary[0]}{number}" in scope.taken:
        number += 1
    return f"{vocabulary[0]}{number}"


def renameable_names(scope: Scope) -> list[str]:
    """Local variables and inner parameters that can be renamed everywhere in the function.

    The function's own parameters are part of the signature the instruction shows, and stay.
    """
    inner = [node for node in ast.walk(scope.function) if node is not scope.function]
    if loaded_names([scope.function]) & {"locals", "eval", "exec", "vars", "globals"}:
        return []
    bound = stored_names([scope.function])
    for node in inner:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            bound.update(parameters(node))
    fixed = set(parameters(scope.function)) | set(scope.keywords)
    for node in ast.walk(scope.module):
        if isinstance(node, ast.keyword) and node.arg:
            fixed.add(node.arg)
        elif isinstance(node, ast.alias):
            fixed.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            fixed.add(node.name)
        elif isinstance(node, ast.Global):
            fixed.update(node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            fixed.add(node.name)
    fixed |= stored_names(
        node for node in scope.module.body if not isinstance(node, ast.FunctionDef)
    )
    return sorted(bound - fixed)


def is_pure(expression: ast.AST) -> bool:
    """Whether evaluating it twice, or later, or not at all changes nothing (on built-in types)."""
    for node in ast.walk(expression):
        if isinstance(node, ast.keyword):
            continue
        if not isinstance(node, _PURE_NODES):
            return False
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id not in _PURE_FUNCTIONS:
                return False
            if isinstance(function, ast.Attribute) and function.attr not in _PURE_METHODS:
                return False
            if not isinstance(function, ast.Name | ast.Attribute):
                return False
    return True


def is_number(expression: ast.expr) -> bool:
    """Whether the expression is certainly an int or a float, so never changed in place."""
    if isinstance(expression, ast.Constant):
        return isinstance(expression.value, int | float)
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
        return expression.func.id in {"len", "int", "ord", "float"}
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
        return is_number(expression.operand)
    if isinstance(expression, ast.BinOp):
        return is_number(expression.left) and is_number(expression.right)
    return False
