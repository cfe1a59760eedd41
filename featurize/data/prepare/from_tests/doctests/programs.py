"""Makes a problem of a function: a statement, a reference program and tests."""

import ast
import builtins

from featurize.data.prepare.from_tests.doctests.examples import global_names, make_tests
from featurize.data.prepare.from_tests.doctests.functions import Function, SourceFile
from featurize.data.prepare.from_tests.problems import Problem

# Decorators of these modules change what a function does; others check, register or deprecate it.
_KEPT_DECORATORS = frozenset({"functools", "contextlib"})


def to_problem(function: Function, *, max_chars: int | None) -> Problem | str:
    """Make the problem, or say why there is none."""
    try:
        reference = _reference(function)
        tests = make_tests(
            function.examples,
            function=function.node.name,
            module=function.module,
            module_name=function.file.module,
        )
    except (SyntaxError, ValueError, RecursionError):
        return "doctests that do not parse"
    if tests is None:
        return "doctests that do not call the function"
    statement = _statement(function, reference)
    if max_chars is not None and len(statement) + len(reference) > max_chars:
        return f"longer than {max_chars} characters"
    return Problem(
        problem_id=function.name,
        instruction=statement,
        reference=reference,
        helpers=frozenset(),
        tests=tests,
        source=function.file.module.partition(".")[0],
    )


def _reference(function: Function) -> str:
    """Write the function as a program: its imports from its module, then the function."""
    file = function.file
    node = _AbsoluteImports(file).visit(ast.parse(ast.unparse(function.node)).body[0])
    kept = _bound_by(function.module, _KEPT_DECORATORS)
    node.decorator_list = [one for one in node.decorator_list if _first_name(one) in kept]
    source = ast.unparse(ast.fix_missing_locations(node))
    future = _future_imports(function.module)
    names = _outer_names(function, f"{future}{source}\n")
    needed = f"from {file.module} import {', '.join(names)}\n\n\n" if names else ""
    return f"{future}{needed}{source}\n"


def _outer_names(function: Function, source: str) -> list[str]:
    """List the names that the function takes from its module."""
    own = _top_level_names(function.module)
    read = global_names(source, with_bound=True) - {function.node.name, "annotations"}
    return sorted(name for name in read if name in own or not hasattr(builtins, name))


def _top_level_names(module: ast.Module) -> set[str]:
    """Collect the names that the module binds, to know which built-in ones it replaces."""
    names: set[str] = set()
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
            case ast.Assign(targets=targets):
                names |= {one.id for one in targets if isinstance(one, ast.Name)}
    return names


def _bound_by(module: ast.Module, roots: frozenset[str]) -> set[str]:
    """Collect the names that come from these modules."""
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module in roots and node.level == 0:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or alias.name for alias in node.names if alias.name in roots}
    return names


def _first_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def _future_imports(module: ast.Module) -> str:
    nodes = [
        node
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    return "".join(f"{ast.unparse(node)}\n" for node in nodes)


class _AbsoluteImports(ast.NodeTransformer):
    """Gives the relative imports within a function their full names."""

    def __init__(self, file: SourceFile) -> None:
        self._package = file.package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level:
            parts = self._package.split(".")
            base = parts[: len(parts) - node.level + 1]
            node.module = ".".join([*base, *([node.module] if node.module else [])])
            node.level = 0
        return node


def _statement(function: Function, reference: str) -> str:
    """Show what a solver would see: the imports at hand, the signature and the docstring."""
    node = function.node
    docstring = node.body[0]
    lines = function.text.splitlines()[node.lineno - 1 : docstring.end_lineno]
    lines[-1] = lines[-1].encode()[: docstring.end_col_offset].decode()  # code may follow it
    signature = "\n".join(lines)
    body = ast.parse(reference).body
    at_hand = "".join(f"{ast.unparse(one)}\n" for one in body if isinstance(one, ast.ImportFrom))
    gap = "\n\n" if at_hand else ""
    return (
        f"Write the Python function `{node.name}` of the module `{function.file.module}` "
        f"that does what its docstring says.\n\n{at_hand}{gap}{signature}"
    )
