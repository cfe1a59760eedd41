"""Files in the formats of RewardBench: their fields, and that its analysis reads them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from featurize.data.pair_rows import read_benchmark_rows, write_plain_rows
from headtrain.evaluation.benchmarks import Score
from headtrain.evaluation.reward_bench import read_answers, write_reward_bench
from headtrain.metrics.bootstrap import Interval
from tests.support.benchmark_rows import REWARD_BENCH, REWARD_BENCH_2, TIES, TIES_REFERENCE

MODEL = "critic/demo"


def export(
    tmp_path: Path, rows: list[dict[str, Any]], values: list[list[float]], *scores: Score
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files for the values of each row's answers; return both JSON files."""
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = write_plain_rows(str(source), tmp_path / "cache")
    found = read_benchmark_rows(plain)
    by_id = {
        task_id: value
        for row, own in zip(found, values, strict=True)
        for task_id, value in zip((*row.correct, *row.incorrect), own, strict=True)
    }
    folder = tmp_path / "reward-bench"
    write_reward_bench(folder, MODEL, found, read_answers(plain, by_id), scores)
    results, texts = (folder / part / f"{MODEL}.json" for part in ("eval-set", "eval-set-scores"))
    return json.loads(results.read_text()), json.loads(texts.read_text())


def ties_of(value: float) -> Score:
    return Score(
        quantity="ties",
        by="subset",
        group="Ties",
        num_rows=2,
        value=Interval(estimate=value, low=None, high=None),
    )


def test_pairs_have_both_texts_and_both_scores(tmp_path: Path) -> None:
    rows = [REWARD_BENCH, REWARD_BENCH | {"id": 2, "prompt": "Other.", "subset": "hep-go"}]
    rows.append(rows[1] | {"id": 3, "prompt": "A third."})
    results, scores = export(tmp_path, rows, [[1, 1], [2, 1], [0, 1]])
    assert results == {
        "model": MODEL,
        "model_type": "Seq. Classifier",
        "chat_template": None,
        "hep-go": 0.5,
        "hep-python": 0.0,  # a tie is wrong
    }
    assert scores["id"] == ["4071", "2", "3"]
    assert scores["results"] == [0, 1, 0]
    assert (scores["scores_chosen"], scores["scores_rejected"]) == ([1, 2, 0], [1, 1, 1])
    assert scores["text_rejected"][0] == [
        {"role": "user", "content": REWARD_BENCH["prompt"]},
        {"role": "assistant", "content": REWARD_BENCH["rejected"]},
    ]
    [first, *_] = (tmp_path / f"reward-bench/{MODEL}_outputs.jsonl").read_text().splitlines()
    line = json.loads(first)
    assert line["prompt"] == [{"role": "user", "content": REWARD_BENCH["prompt"]}]
    assert {"results", "scores_chosen", "text_chosen", "subset", "id"} <= line.keys()


def test_rows_of_many_answers_have_lists_with_the_correct_ones_first(tmp_path: Path) -> None:
    rows = [REWARD_BENCH_2, TIES_REFERENCE, TIES]
    values: list[list[float]] = [[1, 1, 0, 0], [3, 1, 2], [1, 4, 4, 0, 0]]
    results, scores = export(tmp_path, rows, values, ties_of(0.7))
    assert (results["Math"], results["Ties"]) == (0.5, 0.7)
    assert scores["scores"] == values
    assert scores["results"] == [0.5, 1.0, 0.0]  # of the first answer, as theirs
    assert scores["num_correct"] == [1, 1, 3]
    assert scores["id"] == ["17", "ref:3", "tied:3"]
    texts = [message[-1]["content"] for message in scores["text"][2]]
    assert texts == [*TIES["chosen"], *TIES["rejected"]]
    assert not list((tmp_path / "reward-bench").rglob("*.jsonl"))


def test_tables_are_read_as_the_analysis_of_reward_bench_reads_them(tmp_path: Path) -> None:
    """`load_scores` of its `analysis/utils.py` reads every JSON file below a folder of models."""
    export(tmp_path, [REWARD_BENCH, REWARD_BENCH | {"id": 2, "prompt": "B."}], [[2, 1], [0, 1]])
    [path] = (tmp_path / "reward-bench/eval-set-scores").glob("*/*.json")
    table = pd.read_json(path, orient="records")
    assert table["results"].tolist() == [1, 0]
    assert table["model"].tolist() == [MODEL] * 2
    wins = table["scores_chosen"] > table["scores_rejected"]
    assert wins.tolist() == [True, False]


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        export(tmp_path, [REWARD_BENCH], [[float("nan"), 1]])
    assert not [path for path in (tmp_path / "reward-bench").rglob("*scores*") if path.is_file()]
