"""Heads to train on random features, for tests of the training loop."""

from typing import Any

import numpy as np
import torch

from headtrain.features.inputs import HeadInputs
from headtrain.features.samples import LabelledSamples
from headtrain.head.model import HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.pairs.sampler import PairPlan, sample_pairs
from headtrain.settings import TrainingSettings
from headtrain.training.loop import HeadJob, Trainer
from headtrain.training.objective import make_objective

CPU = torch.device("cpu")


def make_spec(*widths: int, **fields: Any) -> HeadSpec:
    """An mlp over tensors of these widths; `fields` change it."""
    tensors = {f"mean.{number}": width for number, width in enumerate(widths)}
    default = {"head_type": "mlp", "dropout": 0.3, "tensors": tensors, "likelihood": False}
    return HeadSpec(**(default | fields))


def make_model(*widths: int, seed: int = 1, **fields: Any) -> HeadModel:
    torch.default_generator.manual_seed(seed)
    return HeadModel(make_spec(*(widths or (16,)), **fields)).train()


def make_inputs(width: int = 16) -> HeadInputs:
    """40 samples of 5 problems; samples 0 and 1 share a row."""
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
    features = torch.randn(39, width, generator=torch.Generator().manual_seed(0))
    return HeadInputs(samples=samples, features=features, rows=rows)


def make_plan(inputs: HeadInputs, num_pairs: int = 30) -> PairPlan:
    return sample_pairs(inputs.samples.problems, inputs.samples.is_correct, num_pairs, seed=0)


def make_job(seed: int = 3, inputs: HeadInputs | None = None, **settings: Any) -> HeadJob:
    """A head over 30 pairs, 4 a batch: of 16 inputs, or with feature_mix of twice 16."""
    training = TrainingSettings(**{"batch_size": 4, **settings})
    widths = (16, 16) if training.feature_mix == "mix" else (16,)
    inputs = inputs or make_inputs(sum(widths))
    kind, mix = training.value_head_type, training.feature_mix
    kind = "linear" if training.is_closed_form else kind
    return HeadJob(
        model=make_model(*widths, seed=seed, head_type=kind, feature_mix=mix),
        objective=make_objective(inputs, make_plan(inputs), training),
        settings=training,
        seed=seed,
    )


def make_trainer(*jobs: HeadJob, **settings: Any) -> Trainer:
    return Trainer(list(jobs) or [make_job(**settings)], device=CPU, mixed_precision=True)


def run(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """Take all steps; the weights of every head."""
    for step in range(trainer.num_steps):
        trainer.take_step(step)
    return [
        {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
        for job in trainer.jobs
    ]


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=1e-6)


def assert_equal(left: list[dict[str, torch.Tensor]], right: list[dict[str, torch.Tensor]]) -> None:
    """The weights of heads, bit by bit."""
    for first, second in zip(left, right, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def rows_of_pairs(inputs: HeadInputs, plan: PairPlan) -> tuple[np.ndarray, np.ndarray]:
    return inputs.rows[plan.correct], inputs.rows[plan.incorrect]
