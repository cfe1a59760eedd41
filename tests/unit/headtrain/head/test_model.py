import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headtrain.features.inputs import InputColumns
from headtrain.head import model as model_module
from headtrain.head.model import FeatureNormaliser, HeadModel
from headtrain.head.spec import HeadSpec, create_value_head
from headtrain.settings import TrainingSettings
from tests.support.head_jobs import make_model, make_spec


def test_the_mlp_head_has_the_plans_layers() -> None:
    layers = list(create_value_head(4096, "mlp", dropout=0.3).mlp)
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linears] == [(512, 4096), (256, 512), (1, 256)]
    assert all(layer.bias is None for layer in linears)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("widths", "fields", "shapes"),
    [
        ((64,), {"head_width": 21}, [(21, 64), (10, 21), (1, 10)]),
        ((32, 48), {}, [(10, 80), (5, 10), (1, 5)]),
        ((32, 48), {"feature_mix": "mix"}, [(6, 80), (3, 6), (1, 3)]),
        ((32, 32), {"feature_mix": "mix", "head_width": 8}, [(8, 64), (4, 8), (1, 4)]),
        ((64,), {"head_type": "linear", "likelihood": True}, [(1, 68)]),
    ],
)
def test_a_spec_gives_the_widths_of_the_layers(
    widths: tuple[int, ...], fields: dict[str, Any], shapes: list[tuple[int, int]]
) -> None:
    model = HeadModel(make_spec(*widths, **fields))
    assert [tuple(weight.shape) for weight in model.head.parameters()] == shapes


def test_a_spec_is_made_from_the_settings() -> None:
    columns = InputColumns(tensors=("mean.2", "last.4"), widths=(32, 16), likelihood=False)
    settings = TrainingSettings(dropout=0.1, feature_mix="mix", value_head_width=7)
    spec = HeadSpec.of(columns, settings)
    assert spec.columns == columns
    assert (spec.dropout, spec.mixed_blocks, spec.num_units) == (0.1, (32, 16), 7)
    assert spec.num_direct == 0  # there is no likelihood
    with_likelihood = HeadSpec.of(dataclasses.replace(columns, likelihood=True), settings)
    assert (with_likelihood.num_direct, with_likelihood.mixed_blocks) == (4, (32, 16, 4))


def test_heads_of_one_shape_may_differ_in_dropout_and_names() -> None:
    spec = make_spec(16, 16)
    other = make_spec(tensors={"last.1": 16, "last.2": 16}, dropout=0.9)
    assert spec.shape == other.shape
    for changes in ({"feature_mix": "mix"}, {"head_width": 6}, {"likelihood": True}):
        assert make_spec(16, 16, **changes).shape != spec.shape


def test_a_seed_gives_the_initial_weights_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (HeadModel.from_seed(make_spec(32), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    weights = [model.head.mlp[0].weight for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("head_type", ["mlp", "linear"])
@pytest.mark.parametrize("shape", [(32,), (4, 32), (4, 7, 32), (0, 32)])
def test_any_leading_shape_gives_one_value_each(head_type: str, shape: tuple[int, ...]) -> None:
    values = make_model(32, head_type=head_type)(torch.randn(shape))
    assert values.shape == (*shape[:-1], 1)


def test_the_mlp_head_computes_what_numpy_computes() -> None:
    head = create_value_head(32).double()
    hidden = torch.randn(5, 32, dtype=torch.float64)
    state = [head.mlp[place].weight.detach().numpy() for place in (0, 3, 6)]
    values = hidden.numpy()
    for weight in state[:-1]:
        values = values @ weight.T
        normal = torch.distributions.Normal(0.0, 1.0)
        values = values * normal.cdf(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(head(hidden).detach().numpy(), values @ state[-1].T, rtol=1e-9)


def test_an_input_too_narrow_for_an_mlp_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"at least 2 units.*got 1 for 15 inputs; set value_head_width"
    ):
        create_value_head(15)
    assert create_value_head(15, units=2)(torch.randn(3, 15)).shape == (3, 1)
    assert create_value_head(1, "linear")(torch.randn(3, 1)).shape == (3, 1)
    with pytest.raises(ValueError, match="got 0"):
        create_value_head(0, "linear")


def test_an_unknown_head_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'transformer' is unknown; use mlp or linear"):
        create_value_head(32, "transformer")


def test_the_normaliser_gives_mean_zero_and_deviation_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_module, "ROWS_AT_ONCE", 64)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 8, generator=generator) * torch.arange(1, 9) + 100
    normaliser = FeatureNormaliser(8)
    normaliser.fit(features)
    np.testing.assert_allclose(normaliser.mean, features.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(normaliser.scale, features.double().numpy().std(0), rtol=1e-5)
    normal = normaliser(features)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(0, correction=0), 1, rtol=1e-3)


def test_a_feature_that_never_varies_keeps_its_scale() -> None:
    features = torch.stack([torch.full((300,), 0.1), torch.randn(300), torch.zeros(300)], dim=1)
    normaliser = FeatureNormaliser(3)
    normaliser.fit(features)
    assert normaliser.scale[[0, 2]].tolist() == [1.0, 1.0]
    assert normaliser(features)[:, [0, 2]].abs().max() < 1e-6


def test_the_columns_of_a_block_keep_their_proportions() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 7, generator=generator) * torch.tensor([1, 10, 3, 1, 1, 0, 0]) + 5
    normaliser = FeatureNormaliser(7)
    normaliser.fit(features, (2, 2, 1, 2))
    deviations = features.double().numpy().std(0)
    first, second = np.sqrt((deviations[:2] ** 2).mean()), np.sqrt((deviations[2:4] ** 2).mean())
    expected = [first, first, second, second, deviations[4], 1, 1]
    np.testing.assert_allclose(normaliser.scale, expected, rtol=1e-5)
    np.testing.assert_allclose(normaliser(features).mean(0), 0, atol=1e-5)


@pytest.mark.parametrize("blocks", [None, (1, 1, 1, 1), (2, 2)])
def test_rounding_is_not_taken_for_a_deviation(blocks: tuple[int, ...] | None) -> None:
    features = torch.full((1000, 4), 5.0)
    features[::2, 0] += 5e-7
    features[:, 2:] = 0
    features[0, 3] = 1e-44  # float32 holds it, but not the deviation that follows from it
    normaliser = FeatureNormaliser(4)
    normaliser.fit(features, blocks)
    assert normaliser.scale.tolist() == [1, 1, 1, 1]
    assert normaliser(features).isfinite().all()


def test_normalising_in_place_is_bitwise_the_same() -> None:
    features = torch.randn(300, 32) * 7 + 2
    normaliser = FeatureNormaliser(32)
    normaliser.fit(features)
    expected = normaliser(features)
    assert not torch.equal(features, expected)
    normaliser.normalise_(features)
    assert torch.equal(features, expected)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_the_likelihood_has_a_linear_term(kind: str) -> None:
    model = make_model(32, head_type=kind, likelihood=True, likelihood_direct=True).eval()
    model.normaliser.fit(torch.randn(50, 36) * 3 + 1)
    features = torch.randn(7, 36)
    without = model.head(model.normaliser(features))
    torch.testing.assert_close(model(features), without)  # the weights start at 0
    model.direct.data = torch.tensor([[0.1, -0.2, 0.3, 0.0]])
    added = model.normaliser(features)[:, 32:] @ torch.tensor([1.0, -2.0, 3.0, 0.0])
    torch.testing.assert_close(model(features), without + added[:, None])
