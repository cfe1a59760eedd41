"""Makes a test program of the examples in a docstring, with the meaning that doctest gives them.

Output is compared as doctest does it with ELLIPSIS and NORMALIZE_WHITESPACE. Sets and dicts are
also compared by value, because the order in which they are shown is no part of a result.
"""

import ast
import builtins
import doctest
import symtable
from collections.abc import Iterator, Sequence
from typing import Any

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


def _root(node: ast.expr) -> str | None:
    """Get the first name of a chain of attributes."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _assign(name: str) -> ast.Assign:
    value = ast.Name("_doctest_function", ast.Load())
    return ast.Assign([ast.Name(name, ast.Store())], value, lineno=0)


def imported_modules(module: ast.Module) -> frozenset[str]:
    """Collect the names that imports anywhere in the code bind."""
    aliases = [
        alias
        for node in ast.walk(module)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    return frozenset((alias.asname or alias.name).split(".")[0] for alias in aliases)


def make_tests(
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
    modules = imported_modules(module) | imported_modules(whole)
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
    names = global_names(source, with_bound=False)
    return {one for one in names if not hasattr(builtins, one) and not one.startswith(_OWN_PREFIX)}


def global_names(source: str, *, with_bound: bool) -> set[str]:
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
