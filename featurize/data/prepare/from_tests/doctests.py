"""Problems from the doctests of installed packages, for `critic prepare doctests`.

Files are parsed, never imported: what they do when imported happens where programs run.
"""

import ast
import doctest
import hashlib
import importlib.util
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from featurize.data.prepare.from_tests.doctest_problems import Function, SourceFile, to_problem
from featurize.data.prepare.from_tests.job import Origin
from featurize.data.prepare.from_tests.problems import Problem
from featurize.data.prepare.from_tests.sandbox import python_folders
from featurize.errors import CriticError

# Folders of a package that hold tests or vendored copies of other packages.
_SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "_vendor", "vendor", "__pycache__"})


def origin_of_doctests(packages: Sequence[str], max_chars: int | None) -> Origin:
    """Take the functions at the top level of modules that have examples in their docstrings.

    A problem's statement is the signature and the docstring, the reference the function's code, and
    the tests are the examples. Those of more than `max_chars` characters are left out.

    Raises:
        CriticError: a package is missing or not in Python.
    """
    files = find_files(packages)
    return Origin(
        name=" ".join(packages),
        recipe={
            "packages": sorted(packages),
            "files_sha256": digest_files(files),
            "max_chars": max_chars,
        },
        read=partial(_read, packages, files, max_chars),
        folders=tuple(sorted({str(file.root) for file in files} - set(python_folders()))),
        is_repeated=True,
    )


def _read(
    packages: Sequence[str], files: Sequence[SourceFile], max_chars: int | None
) -> tuple[list[Problem], dict[str, int]]:
    """Make the problems; count the functions that were used, and those left out by reason."""
    problems: dict[str, Problem] = {}  # by program without its imports: copies are left out
    left_out: Counter[str] = Counter()
    for file in files:
        for function in read_functions(file):
            made = (
                function if isinstance(function, str) else to_problem(function, max_chars=max_chars)
            )
            if isinstance(made, str):
                left_out[made] += 1
                continue
            code = made.reference.partition("\n\n\n")[2] or made.reference
            if problems.setdefault(code, made) is not made:
                left_out["same as another"] += 1
    counts = {"problems": len(problems), **dict(left_out.most_common())}
    if not problems:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise CriticError(
            f"{' '.join(packages)}: no function at the top level of a module has doctests "
            f"that call it ({reasons or 'no functions'}): name another package"
        )
    return list(problems.values()), counts


def find_files(packages: Sequence[str]) -> list[SourceFile]:
    """Find the Python files of packages, modules or parts of packages (`sympy.ntheory`).

    Raises:
        CriticError: one is not installed, or has no Python source.
    """
    found: dict[str, SourceFile] = {}
    for name in packages:
        files = {file.module: file for file in _files_of(name)}
        if not files:
            raise CriticError(f"{name!r} has no Python source: name a package in Python")
        found |= files
    return [found[module] for module in sorted(found)]


def _files_of(name: str) -> Iterator[SourceFile]:
    top, *parts = name.split(".")
    for root, start in _places(top, name):
        place = start.joinpath(*parts)
        if place.is_dir():
            yield from _files_below(place, name, root)
        elif place.with_suffix(".py").is_file():
            yield SourceFile(module=name, path=place.with_suffix(".py"), root=root)


def _places(top: str, name: str) -> list[tuple[Path, Path]]:
    """List the folders (or the file, without its ending) of a package, each with its root."""
    try:
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    if spec is None:
        raise CriticError(
            f"no package {name!r} in this environment: install it, or correct the name"
        )
    folders = spec.submodule_search_locations
    if folders is not None:
        return [(Path(folder).parent, Path(folder)) for folder in folders]
    if spec.origin and spec.origin.endswith(".py"):
        path = Path(spec.origin)
        return [(path.parent, path.with_suffix(""))]
    return []


def _files_below(folder: Path, name: str, root: Path) -> Iterator[SourceFile]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if _SKIPPED_FOLDERS & set(parts[:-1]) or not all(part.isidentifier() for part in parts):
            continue
        names = parts[:-1] if parts[-1] == "__init__" else parts
        if parts[-1] != "__main__":
            yield SourceFile(module=".".join((name, *names)), path=path, root=root)


def digest_files(files: Sequence[SourceFile]) -> str:
    """Compute one checksum of the names and contents of all files."""
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.path.read_bytes()).hexdigest()
        digest.update(f"{file.module} {content}\n".encode())
    return digest.hexdigest()


def read_functions(file: SourceFile) -> Iterator[Function | str]:
    """Parse a file into its functions; what cannot be one is the reason, as a text to count."""
    try:
        text = importlib.util.decode_source(file.path.read_bytes())
        with warnings.catch_warnings(action="ignore"):  # of escapes in their texts
            module = ast.parse(text)
    except (SyntaxError, ValueError):
        yield "files that do not parse"
        return
    # A later definition of the same name replaces an earlier one.
    last = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    for node in last.values():
        examples = _examples(ast.get_docstring(node, clean=False) or "")
        if isinstance(examples, str):
            yield examples
            continue
        yield Function(file=file, module=module, node=node, text=text, examples=examples)


def _examples(docstring: str) -> tuple[doctest.Example, ...] | str:
    """Parse the examples of a docstring that are meant to run."""
    try:
        found = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return "doctests that do not parse"
    runnable = [one for one in found if not one.options.get(doctest.SKIP)]
    if not found:
        return "without doctests"
    return tuple(runnable) or "doctests all skipped"
