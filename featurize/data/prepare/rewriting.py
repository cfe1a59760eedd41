"""Writes Python outputs in another way: in one style, or as copies that give the same results."""

import ast
import builtins
import hashlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from featurize.data.prepare.from_tests.edits import edit, normalise
from featurize.data.prepare.from_tests.rewrites import REWRITES
from featurize.data.prepare.mapping import UsedColumns
from featurize.data.prepare.prepared import Row

# Rules that can change results where nothing is run to notice it.
_NEED_A_RUN = {
    "for to while": "range(n / 2) fails, counting up to n / 2 does not",
    "swap alternatives": "`is_first or x == last` may read `last` before it is set",
    "expand augmented": "`x *= 2` changes a list in place, `x = x * 2` does not",
    "contract augmented": "the same in the other direction",
    "loop to comprehension": "a loop that fails halfway leaves a list",
}
RULES = {name: rule for name, rule in REWRITES.items() if name not in _NEED_A_RUN}

EDITS_PER_COPY = 3
"""Rules applied one after another to make a copy."""

# Names of variables, docstrings or code are data to programs that use these.
_READ_PROGRAMS = frozenset(
    (
        *("locals", "globals", "vars", "dir", "eval", "exec", "compile"),
        *("inspect", "doctest", "_getframe", "__doc__", "__code__", "__dict__"),
    )
)
# Comparisons of arrays and formulas are not True or False, and `x += 1` may change an array.
_ARRAYS = frozenset(
    ("numpy", "pandas", "scipy", "sympy", "torch", "tensorflow", "jax", "numba", "polars")
)

_OPERATORS = frozenset(
    f"__{name}__"
    for name in (
        *("eq", "ne", "lt", "le", "gt", "ge", "bool", "getitem"),
        *("add", "radd", "mul", "rmul", "getattr", "getattribute"),
    )
)
_BUILTINS = frozenset(dir(builtins))

Made = TypeVar("Made")


def in_one_style(row: Row, used: UsedColumns) -> Row:
    """Return the row with its output as `ast.unparse` writes it, or as it is; and count which.

    Names, docstrings and the order of statements stay; comments, blank lines, quotes, brackets and
    spaces become those of `ast.unparse`.
    """
    program = _quietly(lambda source: ast.unparse(ast.parse(source)), row["output"])
    if not program:  # what is only comments would leave nothing
        used.num_not_python += 1
        return row
    used.num_normalised += program != row["output"]
    return {**row, "output": program}


def with_copies(row: Row, number: int, used: UsedColumns) -> Iterator[Row]:
    """Yield the row and up to `number` copies with the same label and a rewritten program.

    A copy has `~1`, `~2`, ... after its task_id, if there is one, and its number as
    metadata.rewrite. The programs are drawn by the text of the output alone.
    """
    yield row
    copies = rewrite(row["output"], number)
    used.num_not_rewritten += not copies
    for place, program in enumerate(copies, start=1):
        used.num_copies += 1
        ids = {"task_id": f"{row['task_id']}~{place}"} if "task_id" in row else {}
        metadata = {**(row["metadata"] or {}), "rewrite": str(place)}
        yield {**row, **ids, "output": program, "metadata": metadata}


def rewrite(program: str, number: int) -> list[str]:
    """Rewrite a Python program in up to `number` ways that give the same results.

    The rules (flipped comparisons, De Morgan, loops for comprehensions, new names of variables
    ...) are those of `critic prepare tests` that need no run to be checked. Parameters keep their
    names, since a caller may pass them by name. All copies are formatted by `ast.unparse`, without
    docstrings.

    Returns:
        Distinct programs, none for what is not Python, has no place for a rule, or does what the
        rules do not foresee: arrays, operators of its own, `eval`, `locals()`, async functions,
        classes within functions, functions with the name of a built-in one.
    """
    return _quietly(lambda source: _copies(normalise(source), number), program) or []


def _quietly(act: Callable[[str], Made], program: str) -> Made | None:
    """Apply a function to a program; None if it is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of its escapes and the like
            return act(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _copies(source: str, number: int) -> list[str]:
    tree = ast.parse(source)
    for part in tree.body:
        is_function = isinstance(part, ast.FunctionDef)
        for node in ast.walk(part):
            if not _is_foreseen(node, is_in_function=is_function and node is not part):
                return []
    keywords = frozenset(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    seed = hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = random.Random(seed)
    found: dict[str, None] = {}
    for _ in range(2 * number):
        count = rng.randint(1, EDITS_PER_COPY)
        copy = edit(source, RULES, keywords=keywords, rng=rng, count=count).source
        if copy != source:
            found[copy] = None
        if len(found) == number:
            break
    return list(found)


def _is_foreseen(node: ast.AST, *, is_in_function: bool) -> bool:
    """Whether the rules keep results of programs with such a node."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name not in _READ_PROGRAMS
        case ast.Import(names=names):
            return not {one.name.split(".")[0] for one in names} & (_ARRAYS | _READ_PROGRAMS)
        case ast.ImportFrom(module=module):
            return (module or "").split(".")[0] not in _ARRAYS | _READ_PROGRAMS
        case ast.FunctionDef(name=name):
            return name not in _OPERATORS and name not in _BUILTINS
        case ast.ClassDef(name=name):
            return not is_in_function and name not in _BUILTINS
        case ast.AsyncFunctionDef():
            return not is_in_function
    return True
