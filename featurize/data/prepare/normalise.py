"""Rewrites programs in one hand, so that style no longer says who wrote them."""

import ast
import warnings


def normalise_python(program: str) -> str | None:
    """Write a Python program as `ast.unparse` does; None if it cannot be parsed.

    Names, docstrings and the order of statements stay; comments, blank lines, quotes, brackets and
    spaces become those of `ast.unparse`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes and the like in the program
            return ast.unparse(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
