from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from headtrain.head import HeadModel
from headtrain.inputs import HeadInputs, LabelledSamples
from headtrain.loop import ItemStream, Trainer, TrainingError, mix_seed, seed_device
from headtrain.objective import pair_objective, point_objective
from headtrain.pairs import PairPlan, sample_pairs
from headtrain.schedule import learning_rate_factor
from headtrain.settings import SchedulerSettings, TrainingSettings

CPU = torch.device("cpu")


@pytest.fixture
def inputs() -> HeadInputs:
    """40 samples of 5 problems with 16 features; samples 0 and 1 share a row."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(40).numpy()
    samples = LabelledSamples(
        table_rows=numbers,
        problems=numbers // 8,
        is_correct=numbers % 3 == 0,
        output_tokens=numbers + 1,
        feature_rows=numbers,
        num_unlabelled=0,
    )
    rows = numbers.copy()
    rows[1:] -= 1
    return HeadInputs(samples=samples, features=torch.randn(39, 16, generator=generator), rows=rows)


@pytest.fixture
def plan(inputs: HeadInputs) -> PairPlan:
    return sample_pairs(inputs.samples.problems, inputs.samples.is_correct, 30, seed=0)


def make_trainer(objective: Any, **settings: Any) -> Trainer:
    seed_device(CPU, 1)
    model = HeadModel(16, "mlp", settings.get("dropout", 0.3)).train()
    training = TrainingSettings(**{"batch_size": 4, **settings})
    return Trainer(model, objective, training, device=CPU, seed=3, mixed_precision=True)


def run(trainer: Trainer, start: int = 0) -> dict[str, torch.Tensor]:
    for step in range(start, trainer.num_steps):
        trainer.take_step(step)
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@dataclass
class CountingObjective:
    """Notes which items it was asked for."""

    num_items: int
    items_per_pair: int = 1
    seen: list[list[int]] = field(default_factory=list)

    def measure(self, head: nn.Module, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(items.tolist())
        loss = head(torch.ones(1, 16)).sum()
        return loss, torch.tensor([float(len(items)), 0.0, 0.0])


def test_every_item_is_visited_once_an_epoch() -> None:
    objective = CountingObjective(num_items=10)
    trainer = make_trainer(objective, n_epochs=2.5, gradient_accumulation_steps=2)
    run(trainer)
    stream = [item for batch in objective.seen for item in batch]
    assert len(stream) == 25
    assert sorted(stream[:10]) == sorted(stream[10:20]) == list(range(10))
    assert len(set(stream[20:])) == 5
    assert stream[:10] != stream[10:20]


def test_no_batch_is_short_but_the_last() -> None:
    objective = CountingObjective(num_items=10)
    trainer = make_trainer(objective, n_epochs=2.5, gradient_accumulation_steps=2)
    run(trainer)
    assert [len(batch) for batch in objective.seen] == [4, 4, 4, 4, 4, 4, 1]
    assert trainer.num_steps == 4


def test_a_fraction_of_an_epoch_visits_that_fraction() -> None:
    objective = CountingObjective(num_items=100)
    run(make_trainer(objective, n_epochs=0.25))
    assert len({item for batch in objective.seen for item in batch}) == 25
    tiny = CountingObjective(num_items=3)
    run(make_trainer(tiny, n_epochs=0.01))
    assert len(tiny.seen) == 1


def test_the_stream_gives_the_same_items_however_it_is_read() -> None:
    whole = ItemStream(7, seed=1, device=CPU).read(0, 30)
    stream = ItemStream(7, seed=1, device=CPU)
    pieces = [stream.read(start, min(start + 4, 30)) for start in range(0, 30, 4)]
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(ItemStream(7, seed=1, device=CPU).read(17, 30), whole[17:])
    assert not torch.equal(ItemStream(7, seed=2, device=CPU).read(0, 30), whole)


def test_accumulated_batches_equal_one_large_batch(inputs: HeadInputs, plan: PairPlan) -> None:
    objective = pair_objective(inputs, plan)
    large = run(make_trainer(objective, batch_size=8, dropout=0.0))
    small = run(make_trainer(objective, batch_size=2, dropout=0.0, gradient_accumulation_steps=4))
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_loop_equals_a_plain_one_with_torch_adamw(inputs: HeadInputs, plan: PairPlan) -> None:
    settings: dict[str, Any] = {
        "n_epochs": 3,
        "dropout": 0.0,
        "weight_decay": 0.1,
        "max_grad_norm": 0.05,
        "value_head_learning_rate": 0.01,
        "lr_scheduler": SchedulerSettings(warmup_ratio=0.2),
    }
    trainer = make_trainer(pair_objective(inputs, plan), **settings)
    seed_device(CPU, 1)
    model = HeadModel(16, "mlp")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=False)
    order = ItemStream(30, seed=3, device=CPU).read(0, 90)
    for step in range(trainer.num_steps):
        pairs = order[step * 4 : step * 4 + 4].numpy()
        pos = model(inputs.features[inputs.rows[plan.correct[pairs]]])
        neg = model(inputs.features[inputs.rows[plan.incorrect[pairs]]])
        optimizer.zero_grad()
        functional.softplus(neg - pos).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        factor = learning_rate_factor(step, 23, SchedulerSettings(warmup_ratio=0.2))
        optimizer.param_groups[0]["lr"] = 0.01 * factor
        optimizer.step()
    assert trainer.num_steps == 23
    for name, tensor in run(trainer).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_any_step_draws_the_same_dropout_whatever_came_before(
    inputs: HeadInputs, plan: PairPlan
) -> None:
    objective = pair_objective(inputs, plan)
    weights = []
    for noise in (0, 5):
        trainer = make_trainer(objective, n_epochs=1, dropout=0.5)
        torch.rand(noise)
        weights.append(run(trainer))
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])


def test_no_two_steps_draw_the_same_dropout() -> None:
    drawn = []

    class DrawingObjective(CountingObjective):
        def measure(
            self, head: nn.Module, items: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            drawn.append(torch.rand(1).item())
            return super().measure(head, items)

    trainer = make_trainer(DrawingObjective(num_items=40), n_epochs=2)
    for step in range(trainer.num_steps):
        trainer.take_step(step)
        trainer.read_means(step)
    assert len(set(drawn)) == len(drawn) == 20


def test_the_normaliser_is_not_trained(inputs: HeadInputs, plan: PairPlan) -> None:
    weights = run(make_trainer(pair_objective(inputs, plan), weight_decay=0.5))
    assert torch.equal(weights["normaliser.mean"], torch.zeros(16))
    assert torch.equal(weights["normaliser.scale"], torch.ones(16))


def test_pairs_are_measured_by_their_own_samples(inputs: HeadInputs, plan: PairPlan) -> None:
    model = HeadModel(16, "linear").eval()
    items = torch.tensor([3, 8, 2])
    loss, statistics = pair_objective(inputs, plan).measure(model.head, items)
    values = model(inputs.features).squeeze(-1).detach()[torch.from_numpy(inputs.rows)]
    difference = values[plan.correct[items.numpy()]] - values[plan.incorrect[items.numpy()]]
    expected = [functional.softplus(-difference).mean(), (difference > 0).float().mean()]
    torch.testing.assert_close(statistics[:2], torch.stack(expected))
    torch.testing.assert_close(statistics[2], difference.mean())
    assert loss.requires_grad
    assert not statistics.requires_grad


def test_points_are_the_distinct_samples_of_the_pairs(inputs: HeadInputs, plan: PairPlan) -> None:
    objective = point_objective(inputs, plan, "bce")
    touched = sorted({*plan.correct.tolist(), *plan.incorrect.tolist()})
    assert objective.num_items == len(touched) < 2 * len(plan.correct)
    model = HeadModel(16, "linear").eval()
    loss, statistics = objective.measure(model.head, torch.arange(objective.num_items))
    values = model(inputs.features).squeeze(-1).detach()[torch.from_numpy(inputs.rows[touched])]
    labels = torch.from_numpy(inputs.samples.is_correct[touched])
    expected = functional.binary_cross_entropy_with_logits(values, labels.float())
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(statistics[1], ((values > 0) == labels).float().mean())
    torch.testing.assert_close(statistics[2], values[labels].mean() - values[~labels].mean())


def test_a_pointwise_batch_has_two_samples_a_pair(inputs: HeadInputs, plan: PairPlan) -> None:
    trainer = make_trainer(point_objective(inputs, plan, "mse"), batch_size=4)
    assert trainer.items_per_batch == 8


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    objective = CountingObjective(num_items=9)
    trainer = make_trainer(objective, n_epochs=1)
    trainer.take_step(0)
    trainer.take_step(1)
    assert trainer.read_means(2)["loss"] == 4.0
    trainer.take_step(2)
    means = trainer.read_means(3)
    assert means["loss"] == 1.0
    assert means["grad_norm"] > 0
    assert means["learning_rate"] == trainer.learning_rate


def test_means_weigh_accumulated_batches_by_their_items() -> None:
    trainer = make_trainer(CountingObjective(num_items=5), gradient_accumulation_steps=2)
    trainer.take_step(0)
    assert trainer.read_means(1)["loss"] == pytest.approx((4 * 4 + 1 * 1) / 5)


def test_a_loss_that_is_not_finite_stops_the_run(inputs: HeadInputs, plan: PairPlan) -> None:
    trainer = make_trainer(pair_objective(inputs, plan))
    trainer.model.head.mlp[0].weight.data.fill_(float("nan"))
    trainer.take_step(0)
    with pytest.raises(TrainingError, match=r"loss is nan by step 1; lower .*learning_rate"):
        trainer.read_means(1)


def test_mixed_precision_does_nothing_on_a_cpu(inputs: HeadInputs, plan: PairPlan) -> None:
    objective = pair_objective(inputs, plan)
    trainer = make_trainer(objective)
    mixed = run(trainer)
    plain = make_trainer(objective)
    plain._uses_autocast = False
    for name, tensor in run(plain).items():
        assert torch.equal(tensor, mixed[name])


def test_seeds_of_neighbours_share_nothing() -> None:
    seeds = {mix_seed(seed, step, use) for seed in range(5) for step in range(50) for use in (0, 1)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)
