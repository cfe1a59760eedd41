"""The names in a function: those that it binds, and new ones."""

import ast
import builtins
import random
from collections.abc import Iterable
from dataclasses import dataclass

_INDEX_NAMES = ("i", "j", "k", "idx", "index", "pos", "p", "q")
_VALUE_NAMES = (
    *("result", "res", "ans", "answer", "out", "output", "value", "val", "temp", "tmp", "cur"),
    *("item", "items", "total", "acc", "current", "found", "data", "ret", "x", "y", "z", "v", "w"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The function that a rule looks at, and what it needs to choose new names."""

    module: ast.Module
    function: ast.FunctionDef
    keywords: frozenset[str]  # names that some call in the tests passes by keyword
    taken: frozenset[str]  # every identifier of the module
    rng: random.Random


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


def stored_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Collect the variables that these nodes assign or delete."""
    return {node.id for node in _variables(nodes) if not isinstance(node.ctx, ast.Load)}


def loaded_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Collect the variables that these nodes read."""
    return {node.id for node in _variables(nodes) if isinstance(node.ctx, ast.Load)}


def _variables(nodes: Iterable[ast.AST]) -> Iterable[ast.Name]:
    return (node for root in nodes for node in ast.walk(root) if isinstance(node, ast.Name))


def parameters(function: ast.FunctionDef | ast.Lambda) -> list[str]:
    """List the names of a function's parameters."""
    return [node.arg for node in ast.iter_child_nodes(function.args) if isinstance(node, ast.arg)]


def is_shadowed(scope: Scope, name: str) -> bool:
    """Whether the program gives the name of a built-in function to something else."""
    bound = stored_names([scope.module])
    for node in ast.walk(scope.module):
        match node:
            case ast.arg(arg=found) | ast.FunctionDef(name=found) | ast.ClassDef(name=found):
                bound.add(found)
    return name in bound


def fresh_name(scope: Scope, *, is_index: bool = False) -> str:
    """Draw an ordinary name that the program does not use yet."""
    vocabulary = _INDEX_NAMES if is_index else _VALUE_NAMES
    free = [name for name in vocabulary if name not in scope.taken]
    if free:
        return scope.rng.choice(free)
    number = 2
    while f"{vocabulary[0]}{number}" in scope.taken:
        number += 1
    return f"{vocabulary[0]}{number}"


def renameable_names(scope: Scope) -> list[str]:
    """List the local variables and inner parameters that can be renamed in the whole function.

    The function's own parameters are in the signature that the instruction shows, and stay.
    """
    if loaded_names([scope.function]) & {"locals", "eval", "exec", "vars", "globals"}:
        return []
    bound = stored_names([scope.function])
    for node in ast.walk(scope.function):
        if node is not scope.function and isinstance(node, ast.FunctionDef | ast.Lambda):
            bound.update(parameters(node))
    # `[sum for sum in x]` has a variable of its own; `sum(x)` beside it is the function.
    fixed = {*parameters(scope.function), *scope.keywords, *dir(builtins)}
    for node in ast.walk(scope.module):
        fixed |= _fixed_names(node)
    fixed |= stored_names(
        node for node in scope.module.body if not isinstance(node, ast.FunctionDef)
    )
    return sorted(bound - fixed)


def _fixed_names(node: ast.AST) -> set[str]:
    """Collect the names that a node binds or mentions elsewhere than in ast.Name and ast.arg."""
    match node:
        case ast.keyword(arg=str(name)):
            return {name}
        case ast.alias():
            return {(node.asname or node.name).split(".")[0]}
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Global(names=names):
            return set(names)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            return {name}
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            return {name}
    return set()
