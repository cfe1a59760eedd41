"""The job behind `critic prepare doctests`: labelled programs from installed packages."""

import sysconfig
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Unpack

from featurize.data.prepare.from_tests.doctests.functions import (
    SourceFile,
    digest_files,
    find_files,
    read_functions,
)
from featurize.data.prepare.from_tests.doctests.programs import to_problem
from featurize.data.prepare.from_tests.job import DatasetOptions, Origin, make_dataset
from featurize.data.prepare.from_tests.problems import Problem
from featurize.data.prepare.from_tests.summary import PrepareSummary
from featurize.data.prepare.settings import PrepareSettings
from featurize.errors import CriticError


def prepare_doctests(
    *, packages: Sequence[str], settings: PrepareSettings, **options: Unpack[DatasetOptions]
) -> PrepareSummary:
    """Write train.jsonl, valid.jsonl, test.jsonl and summary.json into `out_dir`.

    Every function at the top level of a module with examples in its docstring is a problem: the
    statement is its signature and docstring, the reference its code, the tests are the examples.

    Raises:
        CriticError: a package is missing or not in Python, no function gave a problem or a sample,
            or no protection and not `is_unsafe_allowed`.
    """
    files = find_files(packages)
    max_chars = settings.doctests.max_chars
    origin = Origin(
        name=" ".join(packages),
        recipe={
            "packages": sorted(packages),
            "files_sha256": digest_files(files),
            "max_chars": max_chars,
        },
        read=partial(_read, packages, files, max_chars),
        folders=tuple(sorted({str(file.root) for file in files} - _own_folders())),
        is_repeated=True,
    )
    return make_dataset(origin, settings=settings, **options)


def _own_folders() -> set[str]:
    """List the folders that Python itself imports from."""
    paths = sysconfig.get_paths()
    return {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}


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
