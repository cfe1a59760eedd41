"""Heads on segments: they begin as the head on the mean, and empty segments say nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from featurize.store.shards import SEGMENT_TOKENS
from headtrain.features.inputs import choose_columns, kept_segments, read_head_inputs
from headtrain.head.model import FeatureNormaliser, HeadModel
from headtrain.head.spec import HeadSpec
from headtrain.training.batched_heads import AutogradHeads
from tests.support.synthetic_stores import write_store

NUM_SEGMENTS, WIDTH = 5, 8
TENSORS = {
    "segments.2": NUM_SEGMENTS * WIDTH,
    "segments.4": NUM_SEGMENTS * WIDTH,
    SEGMENT_TOKENS: NUM_SEGMENTS,
}
KINDS = ["gated", "attention"]


def make_spec(kind: str, **fields: Any) -> HeadSpec:
    default = {"dropout": 0.3, "tensors": TENSORS, "likelihood": False}
    return HeadSpec(head_type=kind, **(default | fields))


def make_head(kind: str, seed: int = 0, **fields: Any) -> HeadModel:
    return HeadModel.from_seed(make_spec(kind, **fields), seed)


def randomise(model: HeadModel, seed: int = 0) -> HeadModel:
    """Give gate, query and places numbers that differ."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def make_inputs(num_rows: int = 6, seed: int = 1) -> Tensor:
    """Segments, and whole numbers of tokens with zeros but not in the first segment."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(num_rows, 2 * NUM_SEGMENTS * WIDTH, generator=generator)
    tokens = torch.randint(0, 4, (num_rows, NUM_SEGMENTS), generator=generator).float()
    tokens[:, 0] += 1
    return torch.cat([states, tokens], dim=1)


def test_with_a_constant_gate_the_gated_head_is_the_linear_head_on_the_means(
    tmp_path: Path,
) -> None:
    store = write_store(tmp_path / "store", segments=NUM_SEGMENTS)
    means, segments = (
        read_head_inputs(store, choose_columns(store, names, likelihood=False)).features
        for names in (["mean.2", "mean.4"], list(TENSORS))
    )
    model = make_head("gated")
    spec = model.spec
    assert spec.layout is not None
    model.normaliser.fit(segments, layout=spec.layout)
    mean = model.normaliser.mean[: spec.layout.num_states].view(2, NUM_SEGMENTS, WIDTH)[:, 0]
    scale = model.normaliser.scale[: spec.layout.num_states].view(2, NUM_SEGMENTS, WIDTH)[:, 0]
    torch.testing.assert_close(mean.flatten(), means.mean(dim=0))
    weight = model.head.value.layers[0].weight[0]  # of both layers side by side
    expected = ((means - mean.flatten()) / scale.flatten()) @ weight
    torch.testing.assert_close(model(segments).squeeze(-1), expected, rtol=1e-4, atol=1e-5)


def test_attention_begins_as_the_head_on_the_mean_of_the_layers_means(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", segments=NUM_SEGMENTS)
    means, segments = (
        read_head_inputs(store, choose_columns(store, names, likelihood=False)).features
        for names in (["mean.2", "mean.4"], list(TENSORS))
    )
    model = make_head("attention", segment_value="mlp", head_width=6)
    expected = model.head.value(means.view(-1, 2, WIDTH).mean(dim=1))
    torch.testing.assert_close(model(segments).squeeze(-1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["linear", "mlp"])
def test_segments_without_tokens_have_no_effect(kind: str, value: str) -> None:
    model = randomise(make_head(kind, segment_value=value, head_width=4))
    inputs = make_inputs()
    tokens = inputs[:, -NUM_SEGMENTS:]
    changed = inputs.clone()
    states = changed[:, :-NUM_SEGMENTS].view(-1, 2, NUM_SEGMENTS, WIDTH)
    states.masked_fill_((tokens == 0)[:, None, :, None], 1e4)
    assert not torch.equal(inputs, changed)
    assert torch.equal(model(inputs), model(changed))
    assert model(inputs).std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_more_tokens_give_a_segment_more_weight_and_their_unit_has_no_effect(kind: str) -> None:
    model = randomise(make_head(kind))
    inputs, longer = make_inputs(), make_inputs()
    longer[:, -NUM_SEGMENTS] *= 10
    scaled = torch.cat([inputs[:, :-NUM_SEGMENTS], 3 * inputs[:, -NUM_SEGMENTS:]], dim=1)
    torch.testing.assert_close(model(scaled), model(inputs))
    assert not torch.allclose(model(longer), model(inputs))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_heads_has_the_values_and_gradients_of_each(number: int, kind: str) -> None:
    def make(seed: int) -> HeadModel:
        return randomise(make_head(kind, seed, segment_value="mlp", head_width=4), seed)

    references = [make(seed) for seed in range(number)]
    heads = AutogradHeads([make(seed) for seed in range(number)])
    inputs = torch.stack([make_inputs(seed=seed) for seed in range(number)])
    pull = torch.randn(number, 6, generator=torch.Generator().manual_seed(3))
    ones = (torch.ones(number, 6, 4), torch.ones(number, 6, 2))
    for accumulate in (False, True):  # the second adds the same again
        masks = tuple(mask.view(*heads.heads, *mask.shape[1:]) for mask in ones)
        values = heads.forward(inputs.view(*heads.heads, *inputs.shape[1:]), masks)
        heads.backward(pull.view(values.shape), accumulate=accumulate)
    for place, model in enumerate(references):
        expected = model(inputs[place]).squeeze(-1)
        torch.testing.assert_close(values.view(number, 6)[place], expected)
        (expected * pull[place]).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(heads.gradients[place], 2 * gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_multiplies_the_hidden_layers_of_every_state(kind: str) -> None:
    model = randomise(make_head(kind, segment_value="mlp", head_width=4))
    off = (torch.zeros(6, 4), torch.ones(6, 2))
    assert model.train_values(make_inputs(), off).eq(0).all()
    half = (torch.ones(6, 4), torch.full((6, 2), 0.5))
    torch.testing.assert_close(
        model.train_values(make_inputs(), half), 0.5 * model(make_inputs()).squeeze(-1)
    )


@pytest.mark.parametrize("kind", ["standardize", "tensor"])
def test_all_segments_of_a_layer_are_normalised_alike_and_tokens_stay(
    tmp_path: Path, kind: str
) -> None:
    store = write_store(tmp_path / "store", segments=NUM_SEGMENTS)
    inputs = read_head_inputs(store, choose_columns(store, list(TENSORS), likelihood=False))
    spec, before = make_spec("gated"), inputs.features.clone()
    layout = spec.layout
    assert layout is not None
    normaliser = FeatureNormaliser(before.shape[1])
    normaliser.fit(inputs.features, spec.units if kind == "tensor" else None, layout)
    normaliser.normalise_(inputs.features)
    assert torch.equal(inputs.features[:, -NUM_SEGMENTS:], before[:, -NUM_SEGMENTS:])
    scale = normaliser.scale[: layout.num_states].view(2, NUM_SEGMENTS, WIDTH)
    assert torch.equal(scale, scale[:, :1].expand_as(scale))
    assert len(scale[0, 0].unique()) == (WIDTH if kind == "standardize" else 1)
    states, shares = layout.split(inputs.features)
    mean = torch.einsum("rlkw,rk->lw", states, shares) / len(states)
    deviation = torch.einsum("rlkw,rk->lw", states.square(), shares) / len(states)
    if kind == "standardize":
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)
    assert not torch.equal(inputs.features, before)


def test_prefixes_end_with_whole_segments_and_are_named_once() -> None:
    assert kept_segments([0.25, 0.5, 0.75, 1.0], 8) == [2, 4, 6, 8]
    assert kept_segments([0.1, 0.2, 0.3, 1.0], 10) == [1, 2, 3, 10]
    assert kept_segments([0.01, 0.02, 0.5], 3) == [1, 2]
