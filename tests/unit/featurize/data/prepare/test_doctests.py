"""Functions of a small package become problems, and every function is accounted for."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from featurize.data.prepare.from_tests.doctest_problems import to_problem
from featurize.data.prepare.from_tests.doctests import (
    find_files,
    origin_of_doctests,
    read_functions,
)
from featurize.data.prepare.from_tests.job import make_dataset
from featurize.data.prepare.from_tests.problems import Problem
from featurize.data.prepare.settings import PrepareTestsSettings
from featurize.errors import CriticError

WORDS = '''
"""Functions on words."""
from __future__ import annotations
import functools
from . import numbers as other
from .numbers import LIMIT

_known = []

def registered(function):
    if function.__name__ in _known:
        raise RuntimeError("registered twice")
    _known.append(function.__name__)
    return function

def _letters(word: Undefined) -> list:
    return [one for one in word if one.isalpha()]

def count_letters(word: Undefined, least=1):
    """Count letters.

    >>> count_letters("a-b")
    2
    >>> import smallpack.words
    >>> smallpack.words.count_letters("")
    Traceback (most recent call last):
        ...
    ValueError: too few letters: 0
    """
    found = len(_letters(word))
    if found < least:
        raise ValueError(f"too few letters: {found}")
    return found

@functools.lru_cache
@registered
def limited(number):
    """At most the limit.

    >>> from smallpack.words import *
    >>> limited(3), limited(50)
    (3, 10)
    """
    from .numbers import LIMIT as limit
    return min(number, limit)

def letters_of(word):
    """The letters, as a set.

    >>> from smallpack.words import letters_of as of
    >>> of("hello world") == of("world hello")
    True
    >>> of("ab ba")
    {'b', 'a'}
    """
    return {one for one in word if one != " "}

def wrong(number):
    """Add one.

    >>> wrong(1)
    3
    """
    return number + 1

def prints(number):
    """Print a number below the limit.

    >>> for number in (1, 2):
    ...     prints(number)
    below 1
    below 2
    """
    if number < LIMIT:
        print("below", number)

def never_called(number):
    """Nothing.

    >>> 1 + 1
    2
    """
    return number

def skipped(number):
    """Nothing.

    >>> skipped(1)  # doctest: +SKIP
    2
    """
    return number

def short(x): "Same.\\n>>> short(1)\\n1"; return x
'''
NUMBERS = '''
LIMIT = 10

def without_examples(a):
    """Nothing."""

def count_letters(word):
    """Count characters.

    >>> count_letters("a-b")
    3
    """
    return len(word)

def also_count_letters(word):
    """Short."""

def broken(a):
    """Bad.

    >>> broken(
    """
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "packages/smallpack"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "words.py").write_text(WORDS)
    (folder / "numbers.py").write_text(NUMBERS)
    (folder / "copy.py").write_text(NUMBERS)
    (folder / "nothing.py").write_text("def (:\n")
    (folder / "tests/test_words.py").write_text(NUMBERS)
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "smallpack"]:
        del sys.modules[name]


def problems_of(module: str) -> dict[str, Problem | str]:
    [file] = find_files([module])
    functions = [one for one in read_functions(file) if not isinstance(one, str)]
    return {one.node.name: to_problem(one, max_chars=None) for one in functions}


def problem_of(name: str) -> Problem:
    problem = problems_of("smallpack.words")[name]
    assert isinstance(problem, Problem)
    return problem


def test_the_statement_shows_imports_signature_and_docstring_and_no_code(package: Path):
    problem = problem_of("count_letters")
    head, _, rest = problem.instruction.partition("\n\n")
    assert head == (
        "Write the Python function `count_letters` of the module `smallpack.words` "
        "that does what its docstring says."
    )
    assert rest.splitlines()[1] == "from smallpack.words import _letters"
    assert rest.endswith('ValueError: too few letters: 0\n    """')
    assert "found" not in problem.instruction
    assert "return" not in problem_of("short").instruction


def test_the_reference_imports_what_it_reads_by_full_names(package: Path):
    reference = problem_of("limited").reference
    assert "from smallpack.numbers import LIMIT as limit" in reference
    assert "registered" not in reference
    assert "@functools.lru_cache" in reference
    assert "from smallpack.words import functools\n" in reference
    # An annotation that is never evaluated needs no import.
    assert "Undefined\n" not in problem_of("count_letters").reference


def test_tests_pass_on_the_reference_and_call_the_program_by_any_name(package: Path):
    for name in ("count_letters", "limited", "letters_of", "prints"):
        problem = problem_of(name)
        exec(problem.reference + problem.tests, {})
        broken = f"def {name}(*arguments):\n    raise LookupError('the program')\n"
        with pytest.raises((LookupError, AssertionError)):
            exec(broken + problem.tests, {})


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [("{1, 2}", {2, 1}), ("{'a': 1, 'b': 2}", {"b": 2, "a": 1}), ("[1, ...]", [1, 2, 3])],
)
def test_output_is_compared_as_a_reader_would(wanted: str, shown: Any, package: Path):
    text = f'def f():\n    """\n    >>> f()\n    {wanted}\n    """\n    return {shown!r}\n'
    (package / "one.py").write_text(text)
    [problem] = problems_of("smallpack.one").values()
    assert isinstance(problem, Problem)
    exec(problem.reference + problem.tests, {})
    with pytest.raises(AssertionError):
        exec("def f():\n    return [2]\n" + problem.tests, {})


def test_a_dataset_of_verified_labels_counts_every_function(package: Path, tmp_path: Path):
    settings = PrepareTestsSettings(correct=1, incorrect=1, workers=1)
    origin = origin_of_doctests(["smallpack"], max_chars=2000)
    make = partial(make_dataset, origin, out_dir=tmp_path / "out", settings=settings)
    summary = make(is_unsafe_allowed=True)
    assert summary.functions == {
        "problems": 7,
        "without doctests": 6,
        "doctests all skipped": 1,
        "doctests that do not call the function": 1,
        "doctests that do not parse": 2,
        "same as another": 1,
        "files that do not parse": 1,
    }
    refused = {problem for ids in summary.refused_problems.values() for problem in ids}
    assert "smallpack.words.wrong" in refused
    rows = [
        json.loads(line)
        for split in ("train", "valid")
        for line in (tmp_path / f"out/{split}.jsonl").read_text().splitlines()
    ]
    assert {"smallpack.words.count_letters", "smallpack.words.limited"} <= {
        row["problem_id"] for row in rows
    }
    tests = {
        one.problem_id: one.tests
        for module in ("smallpack.words", "smallpack.numbers", "smallpack.copy")
        for one in problems_of(module).values()
        if isinstance(one, Problem)
    }
    for row in rows:
        try:
            exec(row["output"] + tests[row["problem_id"]], {})
            passes = True
        except AssertionError:
            passes = False
        assert passes is row["is_correct"], row
    assert make().was_up_to_date


def test_labels_that_depend_on_random_numbers_are_left_out(package: Path, tmp_path: Path):
    text = '''
import random

def draw(low):
    """Draw a number.

    >>> draw(0)
    0.8444218515250481
    """
    number = random.random()
    if number < low:
        return low
    return number
'''
    (package / "drawn.py").write_text(text)  # what the first run draws
    summary = make_dataset(
        origin_of_doctests(["smallpack.drawn", "smallpack.numbers"], max_chars=None),
        out_dir=tmp_path / "out",
        settings=PrepareTestsSettings(correct=1, incorrect=1, workers=1),
        is_unsafe_allowed=True,
    )
    [(reason, problems)] = summary.refused_problems.items()
    assert problems == ["smallpack.drawn.draw"]
    assert "random numbers" in reason


def test_what_is_no_package_in_python_is_named(package: Path):
    for name, message in (
        ("smallpack2", "no package 'smallpack2'"),
        ("smallpack.none", r"'smallpack\.none' has no Python source"),
        ("sys", "'sys' has no Python source"),
        ("smallpack.nothing", r"smallpack\.nothing: no function"),
    ):
        with pytest.raises(CriticError, match=message):
            origin_of_doctests([name], max_chars=None).read()
