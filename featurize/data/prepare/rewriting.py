"""Writes Python outputs in another way: in one style, or as copies that give the same results."""

import ast
import hashlib
import random
import warnings
from collections.abc import Iterator

from featurize.data.prepare.from_tests.edits import edit_once
from featurize.data.prepare.from_tests.edits import normalise as without_docstrings
from featurize.data.prepare.from_tests.rewrites_expressions import EXPRESSION_REWRITES
from featurize.data.prepare.from_tests.rewrites_loops import LOOP_REWRITES
from featurize.data.prepare.from_tests.rewrites_statements import STATEMENT_REWRITES
from featurize.data.prepare.mapping import UsedColumns
from featurize.data.prepare.prepared import Row

RULES = {**EXPRESSION_REWRITES, **STATEMENT_REWRITES, **LOOP_REWRITES}

EDITS_PER_COPY = 3
"""Rules applied one after another to make a copy."""

_FAILURES = (SyntaxError, ValueError, RecursionError, MemoryError)


def in_one_style(row: Row, used: UsedColumns) -> Row:
    """Return the row with its output as `ast.unparse` writes it, or as it is; and count which.

    Names, docstrings and the order of statements stay; comments, blank lines, quotes, brackets and
    spaces become those of `ast.unparse`.
    """
    program = _unparse(row["output"])
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
    ...) are those of `critic prepare tests`; nothing is run. Parameters keep their names, since a
    caller may pass them by name. All copies are formatted by `ast.unparse`, without docstrings.

    Returns:
        Distinct programs, none for what is not Python or has no place for a rule.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _copies(without_docstrings(program), number)
    except _FAILURES:
        return []


def _copies(source: str, number: int) -> list[str]:
    tree = ast.parse(source)
    functions = frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    keywords = frozenset(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    seed = hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = random.Random(seed)
    found: dict[str, None] = {}
    for _ in range(2 * number):
        copy = source
        for _ in range(rng.randint(1, EDITS_PER_COPY)):
            edited = edit_once(copy, RULES, functions=functions, keywords=keywords, rng=rng)
            if edited is None:
                break
            copy = edited.source
        if copy != source:
            found[copy] = None
        if len(found) == number:
            break
    return list(found)


def _unparse(program: str) -> str | None:
    """Parse a program and write it again; None if it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes and the like in the program
            return ast.unparse(ast.parse(program))
    except _FAILURES:
        return None
