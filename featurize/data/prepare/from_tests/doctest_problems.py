"""Makes a problem of a function with doctests: a statement, a reference program and tests.

The tests have the meaning that doctest gives the examples: output is compared with ELLIPSIS and
NORMALIZE_WHITESPACE. Sets and dicts are also compared by value, because the order in which they are
shown is no part of a result.
"""

import ast
import builtins
import doctest
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.data.prepare.from_tests.problems import Problem

# Decorators of these modules change what a function does; others check, register or deprecate it.
_KEPT_DECORATORS = frozenset({"functools", "contextlib"})
# `show` is what the prompt does with a value; `same` compares what was shown with the docstring.
_PRELUDE = """\
import ast as _doctest_ast
import contextlib as _doctest_contextlib
import doctest as _doctest
import io as _doctest_io

_doctest_function = {name}


def _doctest_show(value):
    if value is not None:
        print(repr(value))


def _doctest_literal(text):
    try:
        return _doctest_ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _doctest_same(shown, wanted):
    flags = _doctest.ELLIPSIS | _doctest.NORMALIZE_WHITESPACE
    if _doctest.OutputChecker().check_output(wanted, shown, flags):
        return True
    values = _doctest_literal(shown), _doctest_literal(wanted)
    return isinstance(values[0], (set, dict)) and values[0] == values[1]


def _doctest_same_error(error, wanted):
    kind, _, message = wanted.strip().partition(":")
    if error is None or type(error).__name__ != kind.rpartition(".")[2]:
        return False
    return _doctest_same(str(error).strip() + "\\n", message.strip() + "\\n")


def _doctest_capture():
    return _doctest_contextlib.redirect_stdout(_doctest_io.StringIO())

"""
_OWN_PREFIX = "_doctest"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A Python file of a package."""

    module: str  # its dotted name
    path: Path
    root: Path  # the folder on sys.path from which the package is imported

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        is_package = self.path.name == "__init__.py"
        return self.module if is_package else self.module.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """A function at the top level of a module, with the text of its file."""

    file: SourceFile
    module: ast.Module
    node: ast.FunctionDef
    text: str
    examples: tuple[doctest.Example, ...]

    @property
    def name(self) -> str:
        """Its dotted name."""
        return f"{self.file.module}.{self.node.name}"


def to_problem(function: Function, *, max_chars: int | None) -> Problem | str:
    """Make the problem, or say why there is none."""
    try:
        reference = _reference(function)
        tests = _make_tests(
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
    node.decorator_list = [
        one for one in node.decorator_list if _root(one, through_calls=True) in kept
    ]
    source = ast.unparse(ast.fix_missing_locations(node))
    future = _future_imports(function.module)
    names = _outer_names(function, f"{future}{source}\n")
    needed = f"from {file.module} import {', '.join(names)}\n\n\n" if names else ""
    return f"{future}{needed}{source}\n"


def _outer_names(function: Function, source: str) -> list[str]:
    """List the names that the function takes from its module."""
    own = _top_level_names(function.module)
    read = _global_names(source, with_bound=True) - {function.node.name, "annotations"}
    return sorted(name for name in read if name in own or not hasattr(builtins, name))


def _top_level_names(module: ast.Module) -> set[str]:
    """Collect the names that the module binds, to know which built-in ones it replaces."""
    names = set(_imported_names(module.body))
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
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


class _Example(ast.NodeTransformer):
    """Shows the values of expressions, and leads every name of the function to the program's."""

    def __init__(self, function: str, modules: frozenset[str]) -> None:
        self._function = function
        self._modules = modules
        self._is_in_definition = False
        self.uses_function = False

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        self.generic_visit(node)
        if self._is_in_definition:  # the prompt does not show these
            return node
        show = ast.Name("_doctest_show", ast.Load())
        return ast.Expr(ast.Call(show, [node.value], []))

    def visit(self, node: ast.AST) -> Any:
        """Visit a node, and remember whether it is within a function or class."""
        before = self._is_in_definition
        self._is_in_definition |= isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        )
        changed = super().visit(node)
        self._is_in_definition = before
        return changed

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if node.id == self._function and isinstance(node.ctx, ast.Load):
            self.uses_function = True
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Turn `module.function` into the program's function."""
        if node.attr == self._function and _root(node.value) in self._modules:
            self.uses_function = True
            return ast.Name("_doctest_function", ast.Load())
        self.generic_visit(node)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        """Rebind after an import that would bind the package's own function."""
        rebound = [
            alias.asname or self._function
            for alias in node.names
            if alias.name in (self._function, "*")
        ]
        # Under another name it is imported to be called.
        self.uses_function |= any(name != self._function for name in rebound)
        return [node, *(_assign(name) for name in rebound)]


def _root(node: ast.expr, *, through_calls: bool = False) -> str | None:
    """Get the first name of a chain of attributes, and of calls."""
    while isinstance(node, ast.Attribute) or (through_calls and isinstance(node, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _assign(name: str) -> ast.Assign:
    value = ast.Name("_doctest_function", ast.Load())
    return ast.Assign([ast.Name(name, ast.Store())], value, lineno=0)


def _imported_names(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Collect the names that those of the nodes bind that are imports."""
    imports = (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    return frozenset(
        (alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names
    )


def _make_tests(
    examples: Sequence[doctest.Example], *, function: str, module: ast.Module, module_name: str
) -> str | None:
    """Make the tests' source; None if no example calls the function.

    The examples may use the names of the module they are in, as doctest lets them.

    Raises:
        SyntaxError: an example is no Python.
        ValueError: an example cannot be parsed, e.g. for a null byte.
    """
    trees = [ast.parse(example.source) for example in examples]
    whole = ast.Module([node for tree in trees for node in tree.body], [])
    missing = _missing_names(ast.unparse(whole)) - {function}
    modules = _imported_names((*ast.walk(module), *ast.walk(whole)))
    transform = _Example(function, modules)
    parts = [_PRELUDE.format(name=function)]
    if missing:
        parts.append(f"from {module_name} import {', '.join(sorted(missing))}\n")
    for example, tree in zip(examples, trees, strict=True):
        changed = ast.fix_missing_locations(transform.visit(tree))
        parts.append("\n".join(_lines(example, ast.unparse(changed))) + "\n")
    return "\n".join(parts) if transform.uses_function else None


def _missing_names(source: str) -> set[str]:
    """Find the names that the examples read and never bind, built-in ones apart."""
    names = _global_names(source, with_bound=False)
    return {one for one in names if not hasattr(builtins, one) and not one.startswith(_OWN_PREFIX)}


def _global_names(source: str, *, with_bound: bool) -> set[str]:
    """Find the global names that a program reads, with or without those that it binds itself."""
    top = symtable.symtable(source, "<source>", "exec")
    read = {one.get_name() for one in top.get_symbols() if one.is_referenced()}
    bound = {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()}
    for table in _below(top):
        read |= {one.get_name() for one in table.get_symbols() if one.is_global()}
    return read if with_bound else read - bound


def _below(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _below(child)


def _lines(example: doctest.Example, source: str) -> Iterator[str]:
    """Write one example and the check of what it shows or raises."""
    body = [f"    {line}" for line in source.splitlines()]
    if example.exc_msg is None:
        yield "with _doctest_capture() as _doctest_shown:"
        yield from body
        yield f"assert _doctest_same(_doctest_shown.getvalue(), {example.want!r})"
        return
    yield "_doctest_error = None"
    yield "try:"
    yield from body
    yield "except Exception as _doctest_raised:"
    yield "    _doctest_error = _doctest_raised"
    yield f"assert _doctest_same_error(_doctest_error, {example.exc_msg!r})"
