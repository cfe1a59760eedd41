import numpy as np
import pytest
import torch
from torch import nn

from headtrain.head.model import FeatureNormaliser, HeadModel, create_value_head


def test_the_mlp_head_has_the_plans_layers() -> None:
    layers = list(create_value_head(4096, "mlp", dropout=0.3).mlp)
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linears] == [(512, 4096), (256, 512), (1, 256)]
    assert all(layer.bias is None for layer in linears)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.3, 0.3]


def test_a_width_of_the_first_layer_halves_in_the_second() -> None:
    shapes = [tuple(weight.shape) for weight in HeadModel(64, units=21).head.parameters()]
    assert shapes == [(21, 64), (10, 21), (1, 10)]
    mixed = HeadModel(64, mixed=(32, 32), units=6).head
    assert [tuple(weight.shape) for weight in mixed.parameters()] == [(6, 64), (3, 6), (1, 3)]


def test_dropout_is_off_by_default_and_in_evaluation() -> None:
    hidden = torch.randn(4, 32)
    plain = create_value_head(32).train()
    assert torch.equal(plain(hidden), plain(hidden))
    dropping = create_value_head(32, dropout=0.5).train()
    assert not torch.equal(dropping(hidden), dropping(hidden))
    dropping.eval()
    assert torch.equal(dropping(hidden), dropping(hidden))


@pytest.mark.parametrize("head_type", ["mlp", "linear"])
@pytest.mark.parametrize("shape", [(32,), (4, 32), (4, 7, 32), (0, 32)])
def test_any_leading_shape_gives_one_value_each(head_type: str, shape: tuple[int, ...]) -> None:
    values = HeadModel(32, head_type)(torch.randn(shape))
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
    assert create_value_head(16).hidden_size == 16
    with pytest.raises(
        ValueError, match=r"at least 2 units.*got 1 for 15 inputs; set value_head_width"
    ):
        create_value_head(15)
    assert create_value_head(15, units=2).hidden_size == 15
    assert create_value_head(1, "linear").hidden_size == 1
    with pytest.raises(ValueError, match="got 0"):
        create_value_head(0, "linear")


def test_an_unknown_head_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'transformer' is unknown; use mlp or linear"):
        create_value_head(32, "transformer")


def test_the_normaliser_gives_mean_zero_and_deviation_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 8, generator=generator) * torch.arange(1, 9) + 100
    normaliser = FeatureNormaliser(8)
    normaliser.fit(features, rows_at_once=64)
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


def test_the_normaliser_travels_with_the_weights() -> None:
    model, other = HeadModel(32), HeadModel(32)
    model.normaliser.fit(torch.randn(50, 32) + 3)
    other.load_state_dict(model.state_dict())
    features = torch.randn(4, 32)
    assert torch.equal(model(features), other(features))
    assert {"normaliser.mean", "normaliser.scale"} <= set(model.state_dict())


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_the_last_columns_lead_straight_to_the_value_as_well(kind: str) -> None:
    model = HeadModel(36, kind, direct=4).eval()
    model.normaliser.fit(torch.randn(50, 36) * 3 + 1)
    features = torch.randn(7, 36)
    without = model.head(model.normaliser(features))
    torch.testing.assert_close(model(features), without)  # the weights begin at 0
    model.direct.data = torch.tensor([[0.1, -0.2, 0.3, 0.0]])
    added = model.normaliser(features)[:, 32:] @ torch.tensor([1.0, -2.0, 3.0, 0.0])
    torch.testing.assert_close(model(features), without + added[:, None])
