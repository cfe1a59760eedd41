"""A folder with a tiny backbone and labelled programs whose correctness can be learnt."""

import random
from pathlib import Path
from typing import Any

from tests.support.row_files import write_rows
from tests.support.tiny_models import write_tiny_llama

LABELS = (True, True, True, False, False, False)
OPTIONS = (
    "models.policy.name=tiny",
    "models.policy.path=model",
    "models.policy.dtype=float32",  # auto is bfloat16 on some machines
    "dataset.train=train.jsonl",
    "dataset.validation=valid.jsonl",
    "featurize.layers=[1,-1]",
    "featurize.unit_tokens=600",
    "featurize.workers=1",
    "runtime.device=cpu",
    "logging.level=WARNING",
    "training.n_epochs=3",
    "evaluation.bootstrap_rounds=200",
)
"""Overrides of configs/demo.yaml for such a folder."""


def write_project(folder: Path, *, num_train: int = 30, num_valid: int = 12) -> Path:
    """Writes model/, train.jsonl and valid.jsonl."""
    write_tiny_llama(folder / "model", adds_bos=True)
    write_rows(folder / "train.jsonl", make_rows("train", num_train))
    write_rows(folder / "valid.jsonl", make_rows("valid", num_valid))
    return folder


def options(*more: str) -> list[str]:
    """`--config` and `--set` for a project folder; what comes later wins."""
    settings = [part for setting in (*OPTIONS, *more) for part in ("--set", setting)]
    return ["--config", "configs/demo.yaml", *settings]


def make_rows(split: str, num_problems: int) -> list[dict[str, Any]]:
    """Three correct and three incorrect outputs a problem; the correct ones say `!` more often.

    The first problem's first output comes twice, under another task_id.
    """
    draw = random.Random(split)
    rows = []
    for problem in range(num_problems):
        for number, is_correct in enumerate(LABELS):
            lines = [draw.choice(("x = 1", "yy += 22", "zzz *= 3")) for _ in range(5)]
            lines += ["return !" if is_correct else "return ?"] * 3
            draw.shuffle(lines)
            rows.append(
                {
                    "instruction": f"Solve {split} task {problem}" + " again" * draw.randint(0, 3),
                    "input": "",
                    "output": "\n".join(lines),
                    "is_correct": is_correct,
                    "problem_id": f"{split}-{problem}",
                    "task_id": f"{split}-{problem}-{number}",
                    "metadata": {"language": "python", "difficulty": problem % 3},
                }
            )
    for row in rows:  # one statement a problem
        first = next(other for other in rows if other["problem_id"] == row["problem_id"])
        row["instruction"] = first["instruction"]
    return [*rows, {**rows[0], "task_id": f"{split}-again"}]
