"""TRL's RewardTrainer and critic on the same few problems, end to end: seconds and accuracy."""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featurize.data.prompt import render_prompt
from headtrain.metrics.pairwise import ScoredSamples, pairwise_accuracy, pairwise_counts
from tests.benchmarks.measuring import print_header, print_row
from tests.support.command_line import REPOSITORY, run_critic

MOST_SAMPLES, MAX_LENGTH, BATCH = 4, 1024, 4

Sample = dict[str, Any]
Problems = dict[str, list[Sample]]


def compare_with_trl(model_path: str, data: Path, num_problems: int, folder: Path) -> None:
    """One epoch each over all pairs of the first problems of train; accuracy on those of valid."""
    splits = {name: _first(data / f"{name}.jsonl", num_problems) for name in ("train", "valid")}
    for name, problems in splits.items():
        lines = [json.dumps(sample) for samples in problems.values() for sample in samples]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = _pairs(splits["train"])
    print(f"\n{len(pairs)} pairs of {num_problems} problems; accuracy on {num_problems} others\n")
    print_header("way", "seconds", "pairwise accuracy over problems")
    for name, way in (("featurize + train-head", _critic), ("TRL RewardTrainer", _reward_trainer)):
        started = time.monotonic()
        accuracy = way(model_path, splits, pairs, folder)
        print_row(name, f"{time.monotonic() - started:.0f}", f"{accuracy:.3f}")


def _critic(_model: str, _splits: Any, _pairs: Any, folder: Path) -> float:
    settings = {
        "models.policy.path": _model,
        "dataset.train": folder / "train.jsonl",
        "dataset.validation": folder / "valid.jsonl",
        "storage.root": folder / "storage",
        "training.n_epochs": 1,
        "featurize.workers": 1,
    }
    options = ["--config", "configs/demo.yaml"]
    options += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    for command in (
        ("featurize", "--split", "train"),
        ("featurize", "--split", "valid"),
        ("train-head",),
        ("eval", "--split", "valid"),
    ):
        done = run_critic(*command, *options, folder=REPOSITORY, home=folder / "home")
        if done.code:
            raise SystemExit(done.err)
    found = json.loads((folder / "storage/evaluation/demo/valid.json").read_text())
    head = found["splits"]["valid"]["judges"]["head"]
    return float(head["accuracy_over_problems"]["estimate"])


def _reward_trainer(model_path: str, splits: Any, pairs: Any, folder: Path) -> float:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(
        model_path, num_labels=1, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = [
        {"prompt": _prompt(good), "chosen": good["output"], "rejected": bad["output"]}
        for good, bad in pairs
    ]
    config = RewardConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        max_length=MAX_LENGTH,
        learning_rate=1e-5,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    RewardTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train()
    samples = [sample for problem in splits["valid"].values() for sample in problem]
    names = {name: place for place, name in enumerate(splits["valid"])}
    scored = ScoredSamples(
        scores=np.array([_score(model.eval(), tokenizer, sample) for sample in samples]),
        is_correct=np.array([bool(sample["is_correct"]) for sample in samples]),
        problem=np.array([names[sample["problem_id"]] for sample in samples]),
        output_tokens=np.array([len(sample["output"]) for sample in samples]),
    )
    return pairwise_accuracy(pairwise_counts(scored)).over_problems


@torch.no_grad()
def _score(model: Any, tokenizer: Any, sample: Sample) -> float:
    text = _prompt(sample) + sample["output"]
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
    return float(model(**inputs).logits)


def _first(path: Path, num_problems: int) -> Problems:
    """The first problems with both labels, with at most so many samples of each label."""
    found: Problems = {}
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            kept = found.setdefault(row["problem_id"], [])
            if [s["is_correct"] for s in kept].count(row["is_correct"]) < MOST_SAMPLES // 2:
                kept.append(row)
    both = {name: kept for name, kept in found.items() if len({s["is_correct"] for s in kept}) == 2}
    return dict(list(both.items())[:num_problems])


def _pairs(problems: Problems) -> list[tuple[Sample, Sample]]:
    return [
        pair
        for samples in problems.values()
        for pair in product(
            [s for s in samples if s["is_correct"]], [s for s in samples if not s["is_correct"]]
        )
    ]


def _prompt(sample: Sample) -> str:
    return render_prompt(sample["instruction"], sample.get("input") or "")
