import math
from typing import Literal, get_args, get_type_hints

import numpy as np
import pytest
import torch

from headtrain.settings import TrainingSettings
from headtrain.training.loss import (
    LOSSES,
    PairLoss,
    PointLoss,
    compute_pairwise_accuracy,
    pairwise_ranking_loss,
    sample_values,
)


@pytest.fixture
def tokens() -> dict[str, torch.Tensor]:
    """Values [3, 5, 1] of three pairs, with masks [3, 5] of different lengths."""
    generator = torch.Generator().manual_seed(0)
    return {
        "v_pos": torch.randn(3, 5, 1, generator=generator, dtype=torch.float64),
        "v_neg": torch.randn(3, 5, 1, generator=generator, dtype=torch.float64),
        "mask_pos": torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).float(),
        "mask_neg": torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 1, 1, 0]]).float(),
    }


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """The same in numpy, row by row."""
    rows = zip(values.squeeze(-1).numpy(), mask.bool().numpy(), strict=True)
    return np.array([row[kept].mean() for row, kept in rows])


def test_the_loss_is_the_plans_formula(tokens: dict[str, torch.Tensor]) -> None:
    difference = masked_mean(tokens["v_pos"], tokens["mask_pos"]) - masked_mean(
        tokens["v_neg"], tokens["mask_neg"]
    )
    expected = np.mean(np.log1p(np.exp(-difference)))
    assert pairwise_ranking_loss(**tokens).item() == pytest.approx(expected, rel=1e-12)
    assert compute_pairwise_accuracy(**tokens) == pytest.approx(np.mean(difference > 0))


def test_all_shapes_of_the_same_values_agree(tokens: dict[str, torch.Tensor]) -> None:
    expected = pairwise_ranking_loss(**tokens)
    flat = {name: value.squeeze(-1) if value.ndim == 3 else value for name, value in tokens.items()}
    pos = sample_values(tokens["v_pos"], tokens["mask_pos"])
    neg = sample_values(tokens["v_neg"], tokens["mask_neg"])
    assert torch.equal(pairwise_ranking_loss(**flat), expected)
    assert torch.equal(pairwise_ranking_loss(pos, neg), expected)
    assert torch.equal(pairwise_ranking_loss(pos[:, None], neg[:, None]), expected)
    assert compute_pairwise_accuracy(pos, neg) == compute_pairwise_accuracy(**tokens)


def test_the_gradient_stays_inside_the_mask(tokens: dict[str, torch.Tensor]) -> None:
    tokens["v_pos"].requires_grad_()
    tokens["v_pos"].data[0, 4] = math.nan  # on padding
    pairwise_ranking_loss(**tokens).backward()
    gradient = tokens["v_pos"].grad
    assert gradient is not None
    assert torch.equal(gradient.squeeze(-1) != 0, tokens["mask_pos"].bool())


@pytest.mark.parametrize(("apart", "loss"), [(-1e4, 1e4), (1e4, 0.0), (0.0, math.log(2))])
def test_extreme_differences_stay_finite(apart: float, loss: float) -> None:
    values = torch.tensor([apart])
    assert pairwise_ranking_loss(values, torch.zeros(1)).item() == pytest.approx(loss)


def test_a_tie_counts_as_wrong() -> None:
    values = torch.tensor([1.0, 2.0])
    assert compute_pairwise_accuracy(values, torch.tensor([1.0, 1.0])) == 0.5


TWO, ONES = torch.tensor([1.0, 2.0]), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((ONES, ONES, ONES, torch.tensor([[1, 0, 0], [0, 0, 0]])), "mask row 1 has no output"),
        ((TWO, torch.tensor([0.0, math.nan])), "value of incorrect sample 1 is NaN"),
        ((torch.tensor([math.nan, 0.0]), TWO), "value of correct sample 0 is NaN"),
        ((ONES, ONES), r"\[2, 3\] .*give their mask"),
        ((ONES, ONES, torch.ones(2, 4), ONES), r"\[2, 4\] must both be \[batch, seq\]"),
        ((torch.zeros(3), TWO), "3 correct and 2 incorrect"),
        ((torch.zeros(0), torch.zeros(0)), "needs pairs"),
    ],
)
def test_inputs_that_would_give_a_wrong_number_are_refused(
    arguments: tuple[torch.Tensor, ...], reason: str
) -> None:
    for function in (pairwise_ranking_loss, compute_pairwise_accuracy):
        with pytest.raises(ValueError, match=reason):
            function(*arguments)


def test_pointwise_losses_are_the_textbook_ones() -> None:
    values, labels = torch.tensor([0.5, -1.5, 3.0]), torch.tensor([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-values.double().numpy()))
    y = labels.double().numpy()
    bce = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    mse = np.mean((values.double().numpy() - y) ** 2)
    for kind, expected in (("bce", bce), ("mse", mse)):
        costs = PointLoss(kind=kind).costs(values, labels)  # type: ignore[arg-type]
        assert costs.mean().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_pair_costs_and_gradients_are_those_of_the_formula(
    margin: float, smoothing: float, centre: float
) -> None:
    loss = PairLoss(margin=margin, label_smoothing=smoothing, center_coefficient=centre)
    pos = torch.tensor([0.3, -2.0, 1.0, 30.0], requires_grad=True)
    neg = torch.tensor([0.1, 1.0, 1.0, -30.0], requires_grad=True)
    right = torch.sigmoid((pos - neg - margin).double())
    expected = -(1 - smoothing) * torch.log(right) - smoothing * torch.log(
        torch.sigmoid(-(pos - neg - margin).double())
    )
    expected = expected + centre * (pos + neg).double() ** 2
    torch.testing.assert_close(loss.costs(pos, neg).double(), expected, rtol=1e-5, atol=1e-6)
    expected.sum().backward()
    upward, downward = loss.gradients(pos.detach(), neg.detach())
    assert pos.grad is not None
    assert neg.grad is not None
    torch.testing.assert_close(upward, pos.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(downward, neg.grad, rtol=1e-5, atol=1e-6)


def test_the_plain_pair_loss_is_bradley_terry() -> None:
    pos, neg = torch.randn(9), torch.randn(9)
    torch.testing.assert_close(PairLoss().costs(pos, neg).mean(), pairwise_ranking_loss(pos, neg))


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_point_gradients_are_those_of_autograd(kind: Literal["bce", "mse"]) -> None:
    values = torch.tensor([0.5, -1.5, 3.0], requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 0.0])
    PointLoss(kind=kind).costs(values, labels).mean().backward()
    assert values.grad is not None
    gradients, none = PointLoss(kind=kind).gradients(values.detach(), labels)
    assert none is None
    torch.testing.assert_close(gradients / 3, values.grad)


def test_every_loss_type_of_the_settings_has_a_loss() -> None:
    assert set(LOSSES) == set(get_args(get_type_hints(TrainingSettings)["loss_type"]))
