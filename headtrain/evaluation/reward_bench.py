"""Writes scores of pairs as the files that RewardBench's scripts write and its analysis reads.

`eval-set/<model>.json` has the score of each subset, `eval-set-scores/<model>.json` the texts and
scores of all rows. If each row is a pair, both are as `run_rm.py` writes them, and
`<model>_outputs.jsonl` has a line per pair, as the command `rewardbench` writes it; else both are
as `run_v2.py` writes them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from featurize.data.pair_rows import BenchmarkRow
from featurize.io.files import atomic_path, write_json
from headtrain.evaluation.benchmarks import NO_SUBSET, TIES, TOP_1, Score

MODEL_TYPE = "Seq. Classifier"
"""Kind of a model with one score for each answer, in the words of RewardBench."""

Message = dict[str, str]


class Answer(NamedTuple):
    """An answer with its conversation and its score."""

    text: Sequence[Message]
    score: float


def write_reward_bench(
    folder: Path,
    model: str,
    rows: Sequence[BenchmarkRow],
    answers: Mapping[str, Answer],
    scores: Sequence[Score],
) -> list[Path]:
    """Write the files below `folder`, with the rows in their own order; return the paths.

    Args:
        folder: gets `eval-set/` and `eval-set-scores/`, the folders of the results repository.
        model: name of the model, `<organisation>/<name>`.
        rows: the rows of the benchmark, at least one.
        answers: by task id, of all rows.
        scores: what `measure_scores` found, for the subsets of `run_v2.py`.
    """
    about = {"model": model, "model_type": MODEL_TYPE, "chat_template": None}
    are_pairs = all(row.is_pair for row in rows)
    table = [(_pair_row if are_pairs else _ranked_row)(row, answers) for row in rows]
    best = [score for score in scores if score.quantity in (TOP_1.key, TIES.key)]
    by_subset = {one.group: one.value.estimate for one in best if one.by == "subset"}
    subsets = _mean_results(table) | ({} if are_pairs else by_subset)
    paths = [folder / part / f"{model}.json" for part in ("eval-set", "eval-set-scores")]
    write_json(paths[0], about | subsets)
    write_json(paths[1], about | {name: [row[name] for row in table] for name in table[0]})
    if are_pairs:
        paths.append(folder / f"{model}_outputs.jsonl")
        with atomic_path(paths[-1]) as temporary, temporary.open("wb") as file:
            for row in table:
                line = row | {"prompt": row["text_chosen"][:-1]}
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return paths


def _pair_row(row: BenchmarkRow, answers: Mapping[str, Answer]) -> dict[str, Any]:
    chosen, rejected = answers[row.correct[0]], answers[row.incorrect[0]]
    return _shared(row) | {
        "text_chosen": chosen.text,
        "text_rejected": rejected.text,
        "scores_chosen": chosen.score,
        "scores_rejected": rejected.score,
        "results": int(chosen.score > rejected.score),
    }


def _ranked_row(row: BenchmarkRow, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Make a row of `run_v2.py`: the correct answers come first."""
    own = [answers[task_id] for task_id in (*row.correct, *row.incorrect)]
    scores = np.array([answer.score for answer in own])
    is_best = scores == scores.max()
    return _shared(row) | {
        "text": [answer.text for answer in own],
        "scores": scores.tolist(),
        "num_correct": len(row.correct),
        # NOTE: of the first answer alone, also where several are correct, as theirs
        "results": float(is_best[0] / is_best.sum()),
    }


def _shared(row: BenchmarkRow) -> dict[str, Any]:
    return {"id": row.id, "subset": row.subset or NO_SUBSET}


def _mean_results(table: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Average the column `results` by subset."""
    found: dict[str, list[float]] = {}
    for row in table:
        found.setdefault(row["subset"], []).append(row["results"])
    return {name: float(np.mean(results)) for name, results in sorted(found.items())}


def read_answers(path: Path, scores: Mapping[str, float]) -> dict[str, Answer]:
    """Read the texts of answers from the file that `write_plain_rows` made, with their scores.

    `scores` are by task id; answers without one are left out.
    """
    found = {}
    with path.open("rb") as file:
        for line in file:
            row = orjson.loads(line)
            task_id = row.get("task_id")
            if task_id in scores:
                found[task_id] = Answer(_conversation(row), scores[task_id])
    return found


def _conversation(row: Mapping[str, Any]) -> list[Message]:
    """Make the messages of a plain row, whose prompt is a text or messages."""
    prompt = row["instruction"]
    if isinstance(prompt, str):
        parts = [prompt, row.get("input") or ""]
        prompt = [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]
    return [*prompt, {"role": "assistant", "content": row["output"]}]
