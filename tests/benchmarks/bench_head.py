"""Prints what an epoch of head training costs, beside the ways people write it, in one run.

    make bench-head ARGS="--hidden 576"
    .venv/bin/python tests/benchmarks/bench_head.py --trl MODEL_FOLDER --trl-data DATA_FOLDER

All ways train the same head on the same 50,000 pairs of random features, on one core, with the
plan's settings, in rounds of a part of an epoch each: the machine's speed drifts, so a ratio is of
the same round and the table has the median. Time is the process's CPU time.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from headtrain.head.model import HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.settings import TrainingSettings
from headtrain.tracking.server import MlflowTracker
from headtrain.tracking.tracker import Tracker
from headtrain.training.loop import HeadJob, Trainer
from headtrain.training.loss import pairwise_ranking_loss
from headtrain.training.objective import Objective
from tests.benchmarks.measuring import print_header, print_row

OURS, PRODUCTS = "critic train-head, log_interval 10", "the matrix products alone"
NUM_PAIRS, NUM_PROBLEMS, SAMPLES_PER_PROBLEM, BATCH = 50_000, 600, 20, 32

Way = Callable[[int], None]
"""Takes so many optimizer steps."""


class Data:
    """Random features of problems with as many correct as incorrect samples, and their pairs."""

    def __init__(self, hidden: int) -> None:
        rng = np.random.default_rng(0)
        num_rows = NUM_PROBLEMS * SAMPLES_PER_PROBLEM
        self.features = torch.from_numpy(rng.normal(size=(num_rows, hidden)).astype(np.float32))
        problems = rng.integers(0, NUM_PROBLEMS, NUM_PAIRS)
        half = SAMPLES_PER_PROBLEM // 2
        self.problems = problems
        self.correct = problems * SAMPLES_PER_PROBLEM + rng.integers(0, half, NUM_PAIRS)
        self.incorrect = problems * SAMPLES_PER_PROBLEM + half + rng.integers(0, half, NUM_PAIRS)
        self.features[self.correct] += 0.1
        self.hidden = hidden

    def objective(self, *, is_by_problem: bool) -> Objective:
        order = np.arange(NUM_PAIRS)
        counts = None
        if is_by_problem:
            order = np.argsort(self.problems, kind="stable")
            _, counts = np.unique(self.problems, return_counts=True)
        return Objective(
            features=self.features,
            first=self.correct[order],
            second=self.incorrect[order],
            weights=np.ones(NUM_PAIRS, np.float32),
            counts=counts,
        )

    @property
    def spec(self) -> HeadSpec:
        tensors = {"mean": self.hidden}
        return HeadSpec(head_type="mlp", dropout=0.3, tensors=tensors, likelihood=False)


def stacked(
    data: Data, num_heads: int, *, tracker: Tracker | None = None, **settings: object
) -> Way:
    """This project's loop, its means read and logged every tenth step where there is a tracker."""
    training = TrainingSettings(batch_size=BATCH, n_epochs=1000, **settings)
    is_whole = training.batching == "problems"
    objective = data.objective(is_by_problem=is_whole)
    jobs = []
    for seed in range(num_heads):
        torch.manual_seed(seed)
        model = HeadModel(data.spec)
        jobs.append(HeadJob(model=model, objective=objective, settings=training, seed=seed))
    trainer = Trainer(jobs, device=torch.device("cpu"), mixed_precision=False)
    step = 0

    def take(num_steps: int) -> None:
        nonlocal step
        if is_whole:  # as many pairs in other steps
            num_steps = round(num_steps * trainer.steps_per_epoch / (NUM_PAIRS / BATCH))
        for _ in range(num_steps):
            trainer.take_step(step)
            step += 1
            if tracker is not None and step % 10 == 0:
                for means in trainer.read_means():
                    tracker.log_metrics({f"train/{key}": means[key] for key in means}, step)

    return take


def dicts(data: Data) -> Way:
    """A DataLoader of dicts, a forward for each side, AdamW: what people write."""

    class Pairs(torch.utils.data.Dataset[dict[str, object]]):
        def __len__(self) -> int:
            return NUM_PAIRS

        def __getitem__(self, place: int) -> dict[str, object]:
            correct, incorrect = data.correct[place], data.incorrect[place]
            return {
                "problem_id": str(data.problems[place]),
                "correct": data.features[correct],
                "incorrect": data.features[incorrect],
            }

    model, optimizer = _model_and_optimizer(data, fused=False)
    loader = DataLoader(Pairs(), batch_size=BATCH, shuffle=True)
    batches = iter(loader)

    def take(num_steps: int) -> None:
        nonlocal batches
        for _ in range(num_steps):
            try:
                batch = next(batches)
            except StopIteration:
                batches = iter(loader)
                batch = next(batches)
            optimizer.zero_grad()
            pos, neg = model(batch["correct"]), model(batch["incorrect"])
            pairwise_ranking_loss(pos, neg).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return take


def index_select(data: Data, *, is_joined: bool) -> Way:
    """Index arrays, AdamW; a forward for each side, or both in one and a fused AdamW."""
    model, optimizer = _model_and_optimizer(data, fused=is_joined)
    correct, incorrect = torch.from_numpy(data.correct), torch.from_numpy(data.incorrect)

    def differences(items: torch.Tensor) -> torch.Tensor:
        sides = [correct[items], incorrect[items]]
        if not is_joined:
            pos, neg = (model(data.features.index_select(0, rows)) for rows in sides)
            return pos - neg
        values = model(data.features.index_select(0, torch.cat(sides))).squeeze(-1)
        return values[: len(items)] - values[len(items) :]

    def take(num_steps: int) -> None:
        order = torch.randperm(NUM_PAIRS)[: num_steps * BATCH]
        for items in order.split(BATCH):
            optimizer.zero_grad()
            (-torch.nn.functional.logsigmoid(differences(items))).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return take


def products(data: Data) -> Way:
    """Nothing but the matrix products that no way can do without."""
    rows = torch.randn(2 * BATCH, data.hidden)
    sizes = [data.hidden, data.hidden // 8, data.hidden // 16, 1]
    weights = [torch.randn(out, width) for width, out in itertools.pairwise(sizes)]
    layers = [torch.randn(2 * BATCH, width) for width in sizes[1:]]

    def take(num_steps: int) -> None:
        for _ in range(num_steps):
            flow = rows
            for weight in weights:
                flow = flow @ weight.T
            for place, layer in enumerate(layers):
                _ = layer.T @ (rows if place == 0 else layers[place - 1])
                if place:
                    _ = layer @ weights[place]

    return take


def _model_and_optimizer(data: Data, *, fused: bool) -> tuple[HeadModel, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = HeadModel(data.spec).train()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)


def measure(
    data: Data, tracker: Tracker, rounds: int, num_steps: int, num_heads: int
) -> dict[str, list[float]]:
    """CPU seconds an epoch, per head, of every way in every round."""
    ways: dict[str, tuple[Way, int]] = {
        "a DataLoader of dicts": (dicts(data), 1),
        "an index_select loop": (index_select(data, is_joined=False), 1),
        "one forward, fused AdamW": (index_select(data, is_joined=True), 1),
        OURS: (stacked(data, 1, tracker=tracker), 1),
        "the same without logging": (stacked(data, 1), 1),
        "the same, batching problems": (stacked(data, 1, tracker=tracker, batching="problems"), 1),
        f"critic sweep, {num_heads} heads, per head": (stacked(data, num_heads), num_heads),
        PRODUCTS: (products(data), 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way, _ in ways.values():
        way(3)  # warm
    for _ in range(rounds):
        for name, (way, number) in ways.items():
            steps = max(3, num_steps // number)
            started = time.process_time()
            way(steps)
            per_step = (time.process_time() - started) / steps / number
            seconds[name].append(per_step * NUM_PAIRS / BATCH)
    return seconds


def logistic_regression(data: Data) -> float:
    """CPU seconds of scikit-learn's fit on the differences of the pairs."""
    from sklearn.linear_model import LogisticRegression

    differences = (data.features[data.correct] - data.features[data.incorrect]).numpy()
    signs = np.where(np.arange(NUM_PAIRS) % 2, 1, -1)
    started = time.process_time()
    LogisticRegression(fit_intercept=False, max_iter=100).fit(
        differences * signs[:, None], signs > 0
    )
    return time.process_time() - started


def print_table(data: Data, seconds: dict[str, list[float]]) -> None:
    """Medians, and medians of the ratios within a round."""
    print(f"\nhidden {data.hidden}: seconds of an epoch of {NUM_PAIRS:,} pairs, batch {BATCH}\n")
    print_header("way", "CPU s an epoch", "times critic train-head", "times the products")
    ours, least = seconds[OURS], seconds[PRODUCTS]
    for name, values in seconds.items():
        ratios = [
            statistics.median(value / other for value, other in zip(values, base, strict=True))
            for base in (ours, least)
        ]
        print_row(name, *(f"{value:.2f}" for value in (statistics.median(values), *ratios)))


def main() -> None:
    """Runs each way in turn and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[576])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150, help="of a round; an epoch has 1,563")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--trl", metavar="MODEL", help="also TRL's RewardTrainer on this HF folder")
    parser.add_argument("--trl-data", type=Path, help="folder of train.jsonl and valid.jsonl")
    parser.add_argument("--trl-problems", type=int, default=16, help="of either split")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for hidden in options.hidden:
        data = Data(hidden)
        with tempfile.TemporaryDirectory() as folder:
            tracker = MlflowTracker(f"sqlite:///{folder}/mlflow.db", "bench")
            tracker.begin({}, None)
            numbers = (options.rounds, options.steps, options.heads)
            print_table(data, measure(data, tracker, *numbers))
        if hidden <= 1024:
            print(f"\nscikit-learn's logistic regression, once: {logistic_regression(data):.1f} s")
    if options.trl:
        from tests.benchmarks.reward_trainer import compare_with_trl

        with tempfile.TemporaryDirectory() as folder:
            compare_with_trl(options.trl, options.trl_data, options.trl_problems, Path(folder))


if __name__ == "__main__":
    main()
