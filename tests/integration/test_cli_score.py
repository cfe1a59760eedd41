"""Scoring files without labels, and judging on other people's pairs, as a user runs them."""

import json
import math
import random
import re
import socket
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from configs.console import UP_TO_DATE
from featurize.data.prompt import render_prompt
from featurize.store import FeatureStore
from headtrain.head.checkpoint import load_head, write_head
from tests.support.benchmark_rows import (
    REWARD_BENCH,
    REWARD_BENCH_2,
    RM_BENCH,
    TIES,
    TIES_REFERENCE,
)
from tests.support.command_line import CriticProject, WarmCritic
from tests.support.row_files import write_rows
from tests.support.tiny_project import make_rows, options, write_project

pytestmark = pytest.mark.slow

HEAD = ("--head", "storage/checkpoints/critic/demo")


@pytest.fixture(scope="module")
def project(critic: WarmCritic, tmp_path_factory: pytest.TempPathFactory) -> CriticProject:
    folder = write_project(tmp_path_factory.mktemp("scored"), num_train=8, num_valid=6)
    project = CriticProject(folder=folder, critic=critic)
    for command in ("featurize --split train", "featurize --split valid", "train-head --pairs 60"):
        project.run(*command.split(), *options())
    rows = [{**row, "note": {"kept": [1, None]}} for row in make_rows("valid", 6)]
    for row in rows:
        del row["is_correct"]
    random.Random(0).shuffle(rows)
    write_rows(folder / "unlabelled.jsonl", rows)
    project.run("score", "unlabelled.jsonl", "--out", "scored.jsonl", *HEAD)
    return project


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["task_id"]: row["score"] for row in rows}


def test_values_along_the_solutions_end_with_the_score(project: CriticProject) -> None:
    out = ("--out", "along.jsonl", "--along", "lines", *HEAD)
    outcome = project.run("score", "unlabelled.jsonl", *out)
    rows = project.read("along.jsonl")
    count = sum(len(row["score_along"]) for row in rows)
    assert re.search(rf"prefixes scored\W+{count}\b", outcome.out)
    for row, plain in zip(rows, project.read("scored.jsonl"), strict=True):
        assert row["score"] == plain["score"]
        assert row["score_along"][-1] == pytest.approx(row["score"], abs=1e-5)
        assert len(row["score_along"]) == len(row["output"].splitlines())
        assert row["score_along_tokens"] == sorted(set(row["score_along_tokens"]))


def test_a_distilled_head_is_a_native_model_of_transformers(project: CriticProject) -> None:
    out = ("--to", "transformers", "--out", "native")
    told = project.run("export", *out, "--distil", *HEAD, *options())
    assert "accuracy" in told.out
    tokenizer = AutoTokenizer.from_pretrained(project.folder / "native")
    model = AutoModelForSequenceClassification.from_pretrained(project.folder / "native")
    assert type(model).__name__ == "LlamaForSequenceClassification"
    text = render_prompt("Solve it.", "") + "return !"
    with torch.inference_mode():
        [[value]] = model(**tokenizer(text, return_tensors="pt")).logits.tolist()
    assert math.isfinite(value)
    again = project.run("export", *out, "--distil", *HEAD, *options(), code=2)
    assert "native" in again.err
    assert "--overwrite" in again.err


def test_rows_come_back_in_order_with_the_values_of_the_store(project: CriticProject) -> None:
    before, after = project.read("unlabelled.jsonl"), project.read("scored.jsonl")
    added = ("score", "probability", "rank")
    assert [{k: v for k, v in row.items() if k not in added} for row in after] == before
    head, store = (
        load_head(project.head),
        FeatureStore.open(project.folder / "storage/features/demo/valid"),
    )
    task_ids = store.samples["task_id"].to_pylist()
    expected = dict(zip(task_ids, head.score(store).tolist(), strict=True))
    assert scores(after) == pytest.approx(expected, rel=0, abs=1e-5)
    assert head.record.decision is not None
    line = head.record.decision.calibration
    for row in after:
        logit = line.slope * row["score"] + line.intercept
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-logit)))
        others = [other for other in after if other["problem_id"] == row["problem_id"]]
        assert row["rank"] == 1 + sum(other["score"] > row["score"] for other in others)


def test_the_same_file_again_is_not_featurized_again(project: CriticProject) -> None:
    done = project.run("score", "unlabelled.jsonl", "--out", "again.jsonl", *HEAD)
    assert UP_TO_DATE in done.out
    assert (project.folder / "again.jsonl").read_bytes() == (
        project.folder / "scored.jsonl"
    ).read_bytes()


def test_every_row_is_accounted_for(project: CriticProject) -> None:
    done = project.run("score", "unlabelled.jsonl", "--out", "again.parquet", *HEAD)
    lines = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in table(done.out)}
    assert lines["rows written"] == "37"
    assert lines["samples scored"] == "37"
    assert lines["duplicates of another sample (same score)"] == "1"
    assert lines["problems"] == "6"


def table(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("│")]


def test_order_company_and_a_config_do_not_change_a_score(project: CriticProject) -> None:
    rows = [*make_rows("train", 3), *sorted(make_rows("valid", 6), key=lambda r: r["output"])]
    write_rows(project.folder / "company.jsonl", rows)
    project.run("score", "company.jsonl", "--out", "crowd.jsonl", *options())
    crowd = scores(project.read("crowd.jsonl"))
    alone = scores(project.read("scored.jsonl"))
    assert {name: crowd[name] for name in alone} == pytest.approx(alone, rel=0, abs=1e-5)


def test_labels_that_are_not_read_are_carried_along(project: CriticProject) -> None:
    rows = [
        {**row, "kto_tag": True, "label": number, "is_correct": "yes"}
        for number, row in enumerate(project.read("unlabelled.jsonl"))
    ]
    write_rows(project.folder / "kto.jsonl", rows)
    project.run("score", "kto.jsonl", "--out", "kto-scored.jsonl", *HEAD)
    found = project.read("kto-scored.jsonl")
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert scores(found) == scores(project.read("scored.jsonl"))
    refused = project.run(
        "featurize", "--split", "train", *options("dataset.train=kto.jsonl"), code=2
    )
    assert "kto.jsonl:1" in refused.err


def test_a_column_that_cannot_be_copied_is_found_before_any_work(project: CriticProject) -> None:
    row = project.read("unlabelled.jsonl")[0]
    texts = {name: pa.array([row[name]]) for name in ("instruction", "output", "task_id")}
    note = pa.array([b"\xff\xfe"])
    pq.write_table(pa.table({**texts, "note": note}), project.folder / "notes.parquet")
    done = project.run("score", "notes.parquet", "--out", "notes.jsonl", *HEAD, code=2)
    assert "notes.parquet:row 1: 'note'" in done.err
    assert "unique tokens" not in done.out
    assert not (project.folder / "notes.jsonl").exists()
    project.run("score", "notes.parquet", "--out", "scored-notes.parquet", *HEAD)
    copied = pq.read_table(project.folder / "scored-notes.parquet")
    assert copied["note"].to_pylist() == [b"\xff\xfe"]
    expected = scores(project.read("scored.jsonl"))[row["task_id"]]
    assert copied["score"].to_pylist() == pytest.approx([expected], abs=1e-5)


def test_the_environment_names_a_tracking_server_that_may_be_down(project: CriticProject) -> None:
    place = options("checkpoint.save_dir=elsewhere")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        variables = {"MLFLOW_TRACKING_URI": uri}
        done = project.run("train-head", "--pairs", "60", *place, variables=variables)
    assert f"mlflow.tracking_uri {uri!r}" in done.err
    assert (project.folder / "elsewhere/best/head.safetensors").exists()
    [waiting] = (project.folder / "storage/mlruns/waiting").glob("*/events.jsonl")
    assert "train/loss" in waiting.read_text()


def test_mistakes_end_in_one_line(project: CriticProject) -> None:
    for arguments, told in (
        (("scored.jsonl", "--out", "x.jsonl", *HEAD), "--prefix critic_"),
        (("unlabelled.jsonl", "--out", "valid.jsonl", *HEAD), "--overwrite"),
        (("unlabelled.jsonl", "--best", "--out", "valid.jsonl", *HEAD), "--overwrite"),
        (
            ("unlabelled.jsonl", "--out", "x.jsonl", "--best", "--along", "lines", *HEAD),
            "--along adds fields, which --best does not write",
        ),
        (("unlabelled.jsonl", "--out", "x.jsonl", "--along", "w", *HEAD), "'along' is 'w'"),
        (("nothing.jsonl", "--out", "x.jsonl", *HEAD), "'nothing.jsonl'"),
        (("unlabelled.jsonl", "--out", "x.jsonl", "--head", "nowhere"), "critic train-head"),
        (
            ("unlabelled.jsonl", "--out", "x.jsonl", *HEAD, "--set", "models.policy.path=gone"),
            "gone",
        ),
    ):
        done = project.run("score", *arguments, code=2)
        lines = [line for line in done.err.splitlines() if not line.startswith("INFO")]
        assert len(lines) == 1, done.err
        assert told in lines[0]
    assert not (project.folder / "x.jsonl").exists()


def test_other_peoples_pairs_are_judged_in_their_own_metric(project: CriticProject) -> None:
    others = [
        REWARD_BENCH | {"subset": "hep-go", "prompt": f"Add {number}.", "id": number}
        for number in range(3)
    ]
    write_rows(project.folder / "reward-bench.jsonl", [REWARD_BENCH, *others])
    done = project.run("eval", "--data", "reward-bench.jsonl", *HEAD)
    assert ": 4 pairs of 4 problems (8 samples, 0 in no pair)" in done.out
    assert "ngrams" in done.out  # the train store is at hand
    assert "hep-python" in done.out
    (written,) = (project.folder / "storage/evaluation/demo").glob("data-reward-bench-*.json")
    found = json.loads(written.read_text())
    subsets = found["benchmark"]["subsets"]
    assert {name: one["num_pairs"] for name, one in subsets["subsets"].items()} == {
        "hep-go": 3,
        "hep-python": 1,
    }
    assert subsets["all_pairs"]["accuracy"] == pytest.approx(
        found["splits"][written.stem]["judges"]["head"]["accuracy_over_pairs"]["estimate"]
    )
    assert found["benchmark"]["styles"] is None
    assert written.with_suffix(".html").exists()


def test_styles_are_distinguished_and_no_train_features_are_needed(project: CriticProject) -> None:
    rows = [RM_BENCH, RM_BENCH | {"id": 9, "prompt": "Write it in C."}]
    write_rows(project.folder / "rm-bench.jsonl", rows)
    features = project.folder / "storage/features/demo"
    (features / "train").rename(features / "away")
    try:
        done = project.run("eval", "--data", "rm-bench.jsonl", *HEAD)
    finally:
        (features / "away").rename(features / "train")
    assert "18 pairs of 2 problems" in done.out
    assert "the train features are gone" in done.out
    assert "P(correct) of correct" in done.out  # by the calibration the head carries
    (written,) = (project.folder / "storage/evaluation/demo").glob("data-rm-bench-*.json")
    found = json.loads(written.read_text())
    styles, all_pairs = found["benchmark"]["styles"], found["benchmark"]["subsets"]["all_pairs"]
    assert styles["num_prompts"] == 2
    assert styles["average"] == pytest.approx(all_pairs["accuracy"])


def test_rows_of_several_answers_get_the_numbers_and_files_of_reward_bench_2(
    project: CriticProject,
) -> None:
    rows = [
        REWARD_BENCH_2,
        REWARD_BENCH_2 | {"id": "18", "prompt": "Name another.", "subset": "Focus"},
        TIES_REFERENCE,
        TIES,
    ]
    write_rows(project.folder / "rb2.jsonl", rows)
    arguments = ("eval", "--data", "rb2.jsonl", *HEAD, "--export", "rewardbench")
    done = project.run(*arguments, "--require", "benchmark/top_1>=0, benchmark/score>2", code=1)
    assert "the benchmark's own numbers" in done.out
    assert "fails: benchmark/score>2" in done.out
    (written,) = (project.folder / "storage/evaluation/demo").glob("data-rb2-*.json")
    scores = {
        (one["quantity"], one["group"]): one["value"]["estimate"]
        for one in json.loads(written.read_text())["benchmark"]["scores"]
    }
    assert {name for name, _ in scores} == {"top_1", "ties", "score"}
    by_subset = [scores["top_1", "Math"], scores["top_1", "Focus"], scores["ties", "Ties"]]
    assert scores["score", ""] == pytest.approx(sum(by_subset) / 3)
    exported = written.with_suffix("") / "reward-bench/eval-set/critic/demo.json"
    assert f"exported {exported.relative_to(project.folder)}" in done.out
    results = json.loads(exported.read_text())
    assert [results[name] for name in ("Math", "Focus", "Ties")] == pytest.approx(by_subset)
    assert "own numbers" in written.with_suffix(".html").read_text()
    refused = project.run("eval", "--export", "rewardbench", *options(), code=2)
    assert "needs --data" in refused.err


def test_a_head_without_calibration_scores_while_its_train_features_are_there(
    project: CriticProject,
) -> None:
    bare = project.folder / "bare"
    bare.mkdir()
    record = json.loads((project.head / "head.json").read_text())
    decision = record.pop("fitted")
    (bare / "head.json").write_text(json.dumps(record))
    (bare / "head.safetensors").write_bytes((project.head / "head.safetensors").read_bytes())
    arguments = ("score", "unlabelled.jsonl", "--head", "bare", "--out")
    project.run(*arguments, "bare.jsonl")
    assert decision is not None
    assert project.read("bare.jsonl") == project.read("scored.jsonl")
    judged = project.run("eval", "--split", "valid", "--head", "bare", *options())
    assert "bare is from a run that has not finished" in judged.out
    features = project.folder / "storage/features/demo"
    (features / "train").rename(features / "away")
    try:
        done = project.run(*arguments, "none.jsonl", code=2)
    finally:
        (features / "away").rename(features / "train")
    assert "has no calibration" in done.err
    assert "critic train-head" in done.err


def test_the_distance_to_train_is_kept_scored_and_evaluated(project: CriticProject) -> None:
    arguments = ("score", "unlabelled.jsonl", "--distance", *HEAD, "--out")
    refused = project.run(*arguments, "far.jsonl", code=2)
    assert "`critic train-head --distance`" in refused.err
    weights = (project.head / "head.safetensors").read_bytes()
    done = project.run("train-head", "--pairs", "60", "--distance", *options())
    assert UP_TO_DATE in done.out
    assert re.search(r"distance to train saved in \S*/best: \d+ outputs of 8 problems", done.out)
    assert (project.head / "head.safetensors").read_bytes() == weights

    shown = project.run(*arguments, "far.jsonl")
    assert "farther from train than 99% of it" in shown.out
    rows = project.read("far.jsonl")
    assert scores(rows) == scores(project.read("scored.jsonl"))
    assert all(0 <= row["distance"] <= 1 for row in rows)
    assert len({row["distance"] for row in rows}) > 1
    both = project.run(*arguments, "best.jsonl", "--best", code=2)
    assert "--distance adds a field" in both.err

    required = ("--require", "beyond_99<=1, beyond_90>=0")
    after = project.run("eval", "--split", "valid", *required, *options())
    assert "farther than 90% of train" in after.out
    [result] = (project.folder / "storage/evaluation/demo").glob("valid.json")
    splits = json.loads(result.read_text())["splits"]
    assert "distance" not in splits["train"]
    mean = splits["valid"]["distance"]["mean"]["estimate"]
    assert mean == pytest.approx(sum(row["distance"] for row in rows) / len(rows), abs=1e-6)
    (project.head / "distance.safetensors").unlink()


def test_heads_that_judge_differently_are_compared_with_the_code_they_differ_on(
    project: CriticProject,
) -> None:
    head = load_head(project.head)
    [member] = head.model.members
    *_, last = member.head.parameters()
    for weight in (last, member.direct):
        weight.data.neg_()
    write_head(project.folder / "opposite", head.model, head.record)
    shown = project.run("compare", str(project.head), "opposite", "--split", "valid", *options())
    [path] = (project.folder / "storage/evaluation/demo").glob("compare-valid-*+*-opposite-*.json")
    found = json.loads(path.read_text())
    assert found["num_both_right"] == found["num_both_wrong"] == 0
    told = len(found["wins"]) + len(found["losses"])
    assert shown.out.count("\ncorrect:\n") == told > 0
    outputs = {row["task_id"]: row["output"] for row in project.read("valid.jsonl")}
    assert sum(output.splitlines()[0] in shown.out for output in outputs.values()) >= 2
