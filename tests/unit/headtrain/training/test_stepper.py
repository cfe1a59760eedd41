"""Padded steps against unpadded ones, and steps that are recorded and replayed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from headtrain.training import stepper
from headtrain.training.batched_heads import sum_by_block
from headtrain.training.loop import Trainer
from headtrain.training.stepper import (
    ROUNDING,
    PaddedTrainer,
    Shape,
    list_uses,
    make_trainer,
    pad_steps,
    sum_by_value,
)
from tests.support import head_jobs
from tests.support.head_jobs import CPU, assert_equal, make_inputs, make_job, run

Run = Callable[[], None]
CUDA = torch.device("cuda")
SETTINGS: dict[str, dict[str, Any]] = {
    "pairs": {},
    "accumulated": {"gradient_accumulation_steps": 3},
    "problems": {"batching": "problems", "problem_pairs": "all", "gradient_accumulation_steps": 2},
    "weighted": {"pair_weights": "problems", "center_coefficient": 0.1},
    "pointwise": {"loss_type": "pointwise", "gradient_accumulation_steps": 2},
    "mix": {"feature_mix": "mix"},
    "linear": {"value_head_type": "linear"},
}


def make_heads(num_heads: int = 1, **settings: Any) -> list[Any]:
    """Heads with seeds 3, 4, 3, ... and rates of their own, over one tensor of features."""
    inputs = make_inputs(32 if settings.get("feature_mix") == "mix" else 16)
    rates = [0.01 * (1 + number) for number in range(num_heads)]
    shared = {"n_epochs": 2.3, **settings}
    return [
        make_job(seed=3 + number % 2, inputs=inputs, value_head_learning_rate=rate, **shared)
        for number, rate in enumerate(rates)
    ]


def train(
    jobs: list[Any], kind: Any = PaddedTrainer, device: torch.device = CPU, **options: Any
) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, float]]]:
    """The weights and the means after all steps."""
    trainer = kind(jobs, device=device, mixed_precision=False, **options)
    weights = run(trainer)
    return weights, trainer.read_means()


@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_padded_steps_train_the_heads_that_unpadded_ones_train(name: str, num_heads: int) -> None:
    plain, plain_means = train(make_heads(num_heads, **SETTINGS[name]), Trainer)
    padded, means = train(make_heads(num_heads, **SETTINGS[name]))
    for left, right in zip(plain, padded, strict=True):
        for key, tensor in left.items():
            # Rounding only: a wrong mask, row or rate moves weights by a learning rate, 0.01.
            torch.testing.assert_close(right[key], tensor, rtol=1e-3, atol=2e-4)
    for expected, found in zip(plain_means, means, strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_recorded_step_reads_its_buffers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepper, "STEPS_AT_ONCE", 5)
    recorded, replays = [], []

    def record(step: Run) -> Run:
        recorded.append(step)

        def replay() -> None:
            replays.append(step)
            step()

        return replay

    settings = {"gradient_accumulation_steps": 2, "dropout": 0.3}
    expected, _ = train(make_heads(2, **settings))
    found, _ = train(make_heads(2, **settings), record=record)
    assert_equal(expected, found)
    num_steps = Trainer(make_heads(2, **settings), device=CPU, mixed_precision=False).num_steps
    # A shape is recorded once, at its second step: the first one runs as it is.
    assert len(set(replays)) == len(recorded) < num_steps / 2
    assert num_steps - 3 <= len(replays) < num_steps


class Operators(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_recorded_step_reads_no_number_back_and_adds_in_a_fixed_order(name: str) -> None:
    """What would wait for a GPU, or differ from run to run there, is seen on a CPU already."""
    seen = Operators()

    def watched(step: Run) -> Run:
        def replay() -> None:
            with seen:
                step()

        return replay

    train(make_heads(2, **SETTINGS[name]), record=watched)
    assert "aten._fused_adamw_.tensor_lr" in seen.names
    reading = ("item", "_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")
    adding = ("index_add", "scatter_add", "index_put", "repeat_interleave", "bincount")
    # With `mix` only the CPU adds by index: see `sum_by_block`.
    allowed = {"aten.index_add_.default"} if name == "mix" else set()
    for operator in seen.names - allowed:
        assert not any(part in operator for part in (*reading, *adding)), operator


def test_large_batches_of_many_heads_are_uploaded_in_fewer_steps() -> None:
    small = head_jobs.make_trainer(*make_heads(1)).batches
    assert stepper.steps_at_once(small) == stepper.STEPS_AT_ONCE
    large = head_jobs.make_trainer(*make_heads(3, gradient_accumulation_steps=2**16)).batches
    numbers = stepper.NUMBERS_PER_TERM * 3 * 4 * 2**16
    assert stepper.steps_at_once(large) == max(1, stepper.NUMBERS_AT_ONCE // numbers)


def test_features_elsewhere_are_gathered_outside_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = train(make_heads(2))
    monkeypatch.setattr(PaddedTrainer, "_is_near", False)
    found, _ = train(make_heads(2))
    assert_equal(expected, found)


def test_a_step_that_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_step: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    expected, _ = train(make_heads())
    found, _ = train(make_heads(), record=refuse)
    assert_equal(expected, found)
    assert "not permitted when stream is capturing" in caplog.text
    assert "more" not in caplog.text


def test_a_padded_run_resumes_at_any_step() -> None:
    whole = PaddedTrainer(make_heads(), device=CPU, mixed_precision=False)
    for step in range(4):
        whole.take_step(step)
    state = {name: tensor.clone() for name, tensor in whole.optimizer.state().items()}
    resumed = PaddedTrainer(make_heads(), device=CPU, mixed_precision=False)
    resumed.heads.parameters.copy_(whole.heads.parameters)
    resumed.optimizer.load(state)
    for step in range(4, whole.num_steps):
        whole.take_step(step)
        resumed.take_step(step)
    assert torch.equal(whole.heads.parameters, resumed.heads.parameters)


def test_every_step_of_an_upload_has_one_shape_and_its_own_terms() -> None:
    trainer = head_jobs.make_trainer(*make_heads(2, gradient_accumulation_steps=2))
    maker = trainer.batches
    shape, arrays = pad_steps(maker.lay_out(0, 100), 2)
    assert shape[:4] == (2, 2, ROUNDING, ROUNDING)
    assert len(arrays["rows"]) == trainer.num_steps
    shares = arrays["shares"].reshape(-1, 2, shape.batches * shape.terms)
    np.testing.assert_allclose(shares.sum(2), 1, rtol=1e-6)  # of every step and head
    for step in range(trainer.num_steps):
        terms = shares[step].reshape(-1) > 0
        first = arrays["rows"][step][arrays["first"][step][terms]]
        expected = [
            batch.rows[batch.first].view(2, -1).numpy() for batch in maker.read(step)
        ]  # [batches][heads, terms]
        assert first.tolist() == np.concatenate(expected, axis=1).reshape(-1).tolist()


@given(st.data())
def test_sums_by_value_equal_additions_one_by_one(data: st.DataObject) -> None:
    num_values, num_terms = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sides = [
        rng.integers(0, num_values, (2, num_terms))
        for _ in range(data.draw(st.sampled_from([1, 2])))
    ]
    shares = rng.integers(0, 2, (2, num_terms)).astype(np.float32)
    uses = list_uses(sides, shares, num_values)
    shape = Shape(1, 1, num_values, num_terms, uses.shape[1] // num_values, len(sides) == 2)
    for step in range(2):
        parts = [rng.normal(size=num_terms).astype(np.float32) * shares[step] for _ in sides]
        expected = np.zeros(num_values, np.float32)
        for side, part in zip(sides, parts, strict=True):
            np.add.at(expected, side[step], part)
        tensors = [torch.from_numpy(part) for part in parts]
        found = sum_by_value(tensors, torch.from_numpy(uses[step]), shape)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_sums_by_block_equal_index_add() -> None:
    columns, widths = torch.randn(3, 9), [2, 4, 3]
    blocks = torch.arange(3).repeat_interleave(torch.tensor(widths))
    expected = torch.zeros(3, 3).index_add_(-1, blocks, columns)
    torch.testing.assert_close(sum_by_block(columns, widths), expected)


def on_cuda(num_heads: int, *, moves_features: bool = True, **settings: Any) -> list[Any]:
    """The same heads with their weights, and if asked their features, on the GPU."""
    jobs = make_heads(num_heads, **settings)
    features = jobs[0].objective.features
    features = features.to(CUDA) if moves_features else features
    return [
        replace(
            job,
            model=job.model.to(CUDA),
            objective=replace(job.objective, features=features),
        )
        for job in jobs
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("moves_features", [True, False], ids=["on the GPU", "on the host"])
@pytest.mark.parametrize("name", SETTINGS)
def test_cuda_trains_the_heads_that_a_cpu_trains_and_twice_the_same(
    name: str, moves_features: bool
) -> None:
    # Without dropout: the devices draw other random numbers.
    settings = {**SETTINGS[name], "dropout": 0.0}
    expected, _ = train(make_heads(3, **settings), Trainer)
    first, _ = train(on_cuda(3, moves_features=moves_features, **settings), make_trainer, CUDA)
    second, _ = train(on_cuda(3, moves_features=moves_features, **settings), make_trainer, CUDA)
    for left, right, again in zip(expected, first, second, strict=True):
        for key, tensor in left.items():
            torch.testing.assert_close(right[key].cpu(), tensor, rtol=1e-2, atol=1e-3)
            assert torch.equal(right[key], again[key])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_cuda_never_waits_for_the_device() -> None:
    trainer = make_trainer(on_cuda(2), device=CUDA, mixed_precision=True)
    trainer.take_step(0)
    trainer.take_step(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, trainer.num_steps):
            trainer.take_step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(means["loss"]) for means in trainer.read_means())
