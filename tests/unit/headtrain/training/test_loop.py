"""The loop against a plain one: autograd, torch.optim.AdamW, clip_grad_norm_."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from featurize.errors import CriticError
from headtrain.head.model import HeadModel
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.settings import SchedulerSettings, TrainingSettings
from headtrain.training.batches import ItemStream
from headtrain.training.head_run import refuse_divergence, refusing_overflow
from headtrain.training.loop import learning_rate_factor
from tests.support.head_jobs import (
    assert_close,
    make_inputs,
    make_job,
    make_model,
    make_plan,
    make_trainer,
    rows_of_pairs,
    run,
)

PLAIN: dict[str, Any] = {
    "n_epochs": 3,
    "dropout": 0.0,
    "weight_decay": 0.1,
    "max_grad_norm": 0.05,
    "value_head_learning_rate": 0.01,
    "lr_scheduler": SchedulerSettings(warmup_ratio=0.2),
}


def train_plainly(
    model: HeadModel, num_steps: int, loss_of: Callable[[int], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Train with PLAIN by autograd; the weights afterwards."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=False)
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        factor = learning_rate_factor(step, num_steps, PLAIN["lr_scheduler"])
        optimizer.param_groups[0]["lr"] = 0.01 * factor
        optimizer.step()
    return dict(model.state_dict())


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("mix", ["concat", "mix"])
def test_the_loop_equals_a_plain_one_with_autograd_and_torch_adamw(kind: str, mix: str) -> None:
    options = {"margin": 0.2, "label_smoothing": 0.1, "center_coefficient": 0.05}
    trainer = make_trainer(**PLAIN, **options, value_head_type=kind, feature_mix=mix)
    widths = (16, 16) if mix == "mix" else (16,)
    inputs = make_inputs(sum(widths))
    correct, incorrect = rows_of_pairs(inputs, make_plan(inputs))
    model = make_model(*widths, seed=3, head_type=kind, feature_mix=mix).eval()
    order = ItemStream(30, seed=3).read(0, 90)

    def loss_of(step: int) -> torch.Tensor:
        pairs = order[step * 4 : step * 4 + 4]
        pos = model(inputs.features[correct[pairs]]).squeeze(-1)
        neg = model(inputs.features[incorrect[pairs]]).squeeze(-1)
        apart = pos - neg - 0.2
        loss = 0.9 * functional.softplus(-apart) + 0.1 * functional.softplus(apart)
        return loss.mean() + 0.05 * torch.mean((pos + neg) ** 2)

    assert trainer.num_steps == 23
    assert_close(run(trainer)[0], train_plainly(model, 23, loss_of))


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_the_pointwise_loop_equals_a_plain_one(kind: str) -> None:
    trainer = make_trainer(**PLAIN, loss_type="pointwise", pointwise_loss=kind)
    inputs = make_inputs()
    plan = make_plan(inputs)
    touched = np.unique(np.r_[plan.correct, plan.incorrect])
    model = make_model(seed=3).eval()
    order = ItemStream(len(touched), seed=3).read(0, 3 * len(touched))
    names = {"bce": functional.binary_cross_entropy_with_logits, "mse": functional.mse_loss}

    def loss_of(step: int) -> torch.Tensor:
        samples = touched[order[step * 8 : step * 8 + 8]]
        values = model(inputs.features[inputs.rows[samples]]).squeeze(-1)
        return names[kind](values, torch.from_numpy(inputs.samples.is_correct[samples]).float())

    assert_close(run(trainer)[0], train_plainly(model, trainer.num_steps, loss_of))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("batching", ["pairs", "problems"])
def test_a_head_in_a_batch_equals_the_same_head_alone(dropout: float, batching: str) -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 3},
        {"seed": 4, "value_head_learning_rate": 0.01},
        {"seed": 5, "weight_decay": 0.5, "max_grad_norm": None},
        {"seed": 5, "max_grad_norm": 0.01, "pair_weights": "problems"},
    ]
    shared = {
        "n_epochs": 2.3,
        "dropout": dropout,
        "batching": batching,
        "gradient_accumulation_steps": 2,
    }
    inputs = make_inputs()  # all heads read one tensor of features
    trainer = make_trainer(*(make_job(inputs=inputs, **shared, **change) for change in changes))
    together = run(trainer)
    means = trainer.read_means()
    for place, change in enumerate(changes):
        alone = make_trainer(**shared, **change)
        weights = run(alone)[0]
        for name, tensor in weights.items():
            difference = (tensor - together[place][name]).abs()
            assert difference.mean() <= 1e-6, (place, name)
            # AdamW divides by the gradient's size: rounding of a tiny one shows in single weights,
            # by a part of the learning rate (1e-3) that depends on the CPU.
            assert difference.max() <= 1e-4, (place, name)
        assert alone.read_means()[0]["loss"] == pytest.approx(means[place]["loss"], abs=1e-5)


def test_accumulated_batches_equal_one_large_batch() -> None:
    large = run(make_trainer(batch_size=8, dropout=0.0))[0]
    small = run(make_trainer(batch_size=2, dropout=0.0, gradient_accumulation_steps=4))[0]
    assert_close(small, large)


def test_any_step_draws_the_same_dropout_whatever_came_before() -> None:
    weights = []
    for noise in (0, 5):
        torch.rand(noise)
        weights.append(run(make_trainer(dropout=0.5))[0])
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
    assert not torch.equal(
        weights[0]["head.mlp.0.weight"], run(make_trainer(dropout=0.4))[0]["head.mlp.0.weight"]
    )


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    trainer = make_trainer(dropout=0.0, value_head_learning_rate=1e-9)
    inputs, model = make_inputs(), make_model(seed=3).eval()
    correct, incorrect = rows_of_pairs(inputs, make_plan(inputs))
    with torch.no_grad():
        values = model(inputs.features).squeeze(-1)
    apart = (values[correct] - values[incorrect])[ItemStream(30, seed=3).read(0, 30)]
    trainer.take_step(0)
    trainer.take_step(1)
    for start, end in ((0, 8), (8, 12)):
        if start:
            trainer.take_step(2)
        (means,) = trainer.read_means()
        expected = functional.softplus(-apart[start:end]).mean().item()
        assert means["loss"] == pytest.approx(expected, rel=1e-4)
        assert means["accuracy"] == pytest.approx((apart[start:end] > 0).float().mean().item())
        assert means["margin"] == pytest.approx(apart[start:end].mean().item(), rel=1e-3)
        assert means["grad_norm"] > 0
        assert means["learning_rate"] == trainer.learning_rates[0]


def test_pointwise_means_are_accuracy_and_gap_of_the_samples() -> None:
    trainer = make_trainer(
        loss_type="pointwise", dropout=0.0, value_head_learning_rate=1e-9, batch_size=32
    )
    inputs = make_inputs()
    plan = make_plan(inputs)
    touched = np.unique(np.r_[plan.correct, plan.incorrect])
    with torch.no_grad():
        values = make_model(seed=3).eval()(inputs.features).squeeze(-1)[inputs.rows[touched]]
    labels = torch.from_numpy(inputs.samples.is_correct[touched])
    trainer.take_step(0)
    (means,) = trainer.read_means()
    assert means["accuracy"] == pytest.approx(((values > 0) == labels).float().mean().item())
    gap = values[labels].mean() - values[~labels].mean()
    assert means["margin"] == pytest.approx(gap.item(), rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    trainer = make_trainer()
    trainer.heads.parameters.fill_(math.nan)
    trainer.take_step(0)
    with pytest.raises(CriticError, match=r"loss is nan by step 1; lower .*learning_rate"):
        refuse_divergence(trainer.read_means()[0], 1, TrainingSettings())


def test_values_that_are_not_finite_stop_the_run_with_a_remedy() -> None:
    labels, problem = np.array([True, False]), np.zeros(2, np.int64)
    with (
        pytest.raises(CriticError, match=r"no longer finite by step 7 .* lower .*learning_rate"),
        refusing_overflow(7, TrainingSettings()),
    ):
        ScoredSamples(
            scores=np.array([1.0, math.inf]),
            is_correct=labels,
            problem=problem,
            output_tokens=problem,
        )
    with pytest.raises(KeyError), refusing_overflow(7, TrainingSettings()):
        raise KeyError("something else")


def test_mixed_precision_does_nothing_on_a_cpu() -> None:
    assert make_trainer().heads.product_dtype == torch.float32


def factors(num_steps: int, **settings: object) -> list[float]:
    scheduler = SchedulerSettings(**settings)  # type: ignore[arg-type]
    return [learning_rate_factor(step, num_steps, scheduler) for step in range(num_steps)]


def test_the_cosine_follows_transformers_after_the_warm_up() -> None:
    # transformers' get_cosine_with_min_lr_schedule_with_warmup, half a cycle
    num_steps, warmup, minimum = 200, 10, 0.01
    ours = factors(num_steps, warmup_ratio=0.05, min_lr_ratio=minimum)
    for step in range(warmup, num_steps):
        progress = (step - warmup) / max(1, num_steps - warmup)
        cosine = 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress))
        assert ours[step] == pytest.approx(cosine * (1 - minimum) + minimum, rel=1e-12)


def test_the_warm_up_is_a_line_to_the_peak() -> None:
    assert factors(8, warmup_ratio=0.5)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_constant_stays_at_the_peak() -> None:
    assert factors(4, type="constant", warmup_ratio=0.5) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.9])
@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_a_run_of_one_step_still_learns(warmup_ratio: float, kind: str) -> None:
    assert factors(1, warmup_ratio=warmup_ratio, type=kind) == [1.0]


def test_steps_past_the_end_and_runs_without_steps_stay_in_range() -> None:
    scheduler = SchedulerSettings(min_lr_ratio=0.2)
    assert learning_rate_factor(500, 100, scheduler) == pytest.approx(0.2)
    assert learning_rate_factor(0, 0, SchedulerSettings()) == 1.0
    assert factors(0) == []
