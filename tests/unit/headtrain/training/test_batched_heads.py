"""Batches of heads and their optimizer against autograd and torch.optim.AdamW."""

import pytest
import torch

from headtrain.head.model import HeadModel
from headtrain.training.batched_heads import ONEDNN_MIN, BatchedHeads, Dropout
from headtrain.training.loop import BatchedAdamW
from tests.support.head_jobs import CPU, make_model


def gradient_of(model: HeadModel) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("mix", ["concat", "mix"])
@pytest.mark.parametrize("direct", [False, True])
def test_values_and_gradients_are_those_of_autograd(
    number: int, kind: str, mix: str, direct: bool
) -> None:
    def make(seed: int) -> HeadModel:
        fields = {"head_type": kind, "feature_mix": mix, "likelihood_direct": direct}
        model = make_model(20, 12, seed=seed, likelihood=True, **fields).eval()
        for name, parameter in model.named_parameters():
            if name in ("mix", "direct"):
                parameter.data = torch.randn(parameter.shape) / 2
        return model

    references = [make(seed) for seed in range(number)]
    heads = BatchedHeads([make(seed) for seed in range(number)])
    inputs, pull = torch.randn(number, 6, 36), torch.randn(number, 6)
    for accumulate in (False, True):  # the second adds the same again
        values = heads.forward(inputs.view(*heads.heads, 6, 36))
        heads.backward(pull.view(values.shape), accumulate=accumulate)
    for head, model in enumerate(references):
        expected = model(inputs[head]).squeeze(-1)
        torch.testing.assert_close(values.view(number, 6)[head], expected, rtol=1e-5, atol=1e-6)
        (expected * pull[head]).sum().backward()
        gradient = 2 * gradient_of(model)
        torch.testing.assert_close(heads.gradients[head], gradient, rtol=1e-4, atol=1e-5)


def test_masks_multiply_the_hidden_layers_in_both_directions() -> None:
    reference = make_model(32)
    heads = BatchedHeads([make_model(32)])
    inputs, pull = torch.randn(6, 32), torch.randn(6)
    masks = (torch.rand(6, 4).round() * 2, torch.rand(6, 2).round() * 2)
    values = heads.forward(inputs, masks)
    heads.backward(pull, accumulate=False)
    first, second, last = (reference.head.mlp[place] for place in (0, 3, 6))
    gelu = torch.nn.functional.gelu
    hidden = gelu(second(gelu(first(inputs)) * masks[0])) * masks[1]
    expected = last(hidden).squeeze(-1)
    torch.testing.assert_close(values, expected)
    (expected * pull).sum().backward()
    torch.testing.assert_close(heads.gradients[0], gradient_of(reference), rtol=1e-4, atol=1e-6)


def test_products_in_bfloat16_agree_with_autocast() -> None:
    reference = make_model(256).eval()
    heads = BatchedHeads([make_model(256).eval()], product_dtype=torch.bfloat16)
    inputs, pull = torch.randn(64, 256), torch.randn(64)
    values = heads.forward(inputs)
    heads.backward(pull, accumulate=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = reference(inputs).squeeze(-1).float()
    assert values.dtype == heads.gradients.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=0.02, atol=0.01)
    (expected * pull).sum().backward()
    gradient = gradient_of(reference)
    assert (heads.gradients[0] - gradient).norm() < 0.02 * gradient.norm()


def test_models_share_the_weights_of_their_batch_and_need_one_shape() -> None:
    models = [make_model(32, seed=seed) for seed in (0, 1)]
    heads = BatchedHeads(models)
    heads.parameters.zero_()
    assert all(float(p.detach().abs().sum()) == 0 for m in models for p in m.parameters())
    with pytest.raises(ValueError, match="one shape"):
        BatchedHeads([make_model(32), make_model(16)])


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate: float) -> None:
    masks = Dropout([rate], [7], (16, 8), CPU).draw(3, 0, 4000)
    assert masks is not None
    both = torch.cat(masks, dim=1)
    assert both.shape == (4000, 24)
    assert (both == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert both.mean().item() == pytest.approx(1, abs=0.01)
    assert both.unique().numel() == 2
    assert torch.corrcoef(both.T).fill_diagonal_(0).abs().max() < 0.08  # columns are independent


def test_without_dropout_there_are_no_masks() -> None:
    assert Dropout([0.0], [7], (16, 8), CPU).draw(3, 0, 4000) is None


def test_masks_depend_on_seed_step_and_batch_and_not_on_later_rows() -> None:
    dropout = Dropout([0.5, 0.5, 0.2], [7, 7, 8], (15, 7), CPU)
    masks = dropout.draw(3, 0, 9)
    assert masks is not None
    assert torch.equal(masks[0][0], masks[0][1])
    assert not torch.equal(masks[0][0] == 0, masks[0][2] == 0)
    for other in (dropout.draw(4, 0, 9), dropout.draw(3, 1, 9)):
        assert other is not None
        assert not torch.equal(other[0][0], masks[0][0])
    alone = Dropout([0.2], [8], (15, 7), CPU).draw(3, 0, 5)
    assert alone is not None
    assert torch.equal(alone[0], masks[0][2, :5])
    assert torch.equal(alone[1], masks[1][2, :5])


def test_the_optimizer_is_torch_adamw_with_clipped_gradients_and_resumes_from_its_state() -> None:
    weights = torch.randn(2, 50)
    ours, gradients = weights.clone(), torch.empty(2, 50)
    optimizer = BatchedAdamW(ours, gradients, [0.1, 0.0])
    rows = [weights[head].clone().requires_grad_() for head in (0, 1)]
    theirs = [
        torch.optim.AdamW([row], weight_decay=decay, fused=False)
        for row, decay in zip(rows, (0.1, 0.0), strict=True)
    ]
    for step in range(5):
        drawn = torch.randn(2, 50) * 3
        gradients.copy_(drawn)
        scales = ((gradients.norm(dim=1) + 1e-6) / torch.tensor([1.0, 1e9])).clamp(min=1)
        rates = [0.01 * (step + 1), 0.02]
        state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
        optimizer = BatchedAdamW(ours, gradients, [0.1, 0.0])
        optimizer.load(state)
        optimizer.step(rates, scales)
        for head, (row, reference) in enumerate(zip(rows, theirs, strict=True)):
            row.grad = drawn[head].clone()
            torch.nn.utils.clip_grad_norm_([row], 1.0 if head == 0 else 1e9)
            reference.param_groups[0]["lr"] = rates[head]
            reference.step()
    torch.testing.assert_close(ours, torch.stack([row.detach() for row in rows]))


@pytest.mark.parametrize(("rows", "is_small"), [(8, True), (ONEDNN_MIN, False)])
def test_only_small_hidden_layers_avoid_onednn(
    rows: int, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, gelu = [], torch.nn.functional.gelu

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.mkldnn.enabled)
        return gelu(hidden)

    monkeypatch.setattr(torch.nn.functional, "gelu", watched)
    before = torch.backends.mkldnn.enabled
    BatchedHeads([make_model(32).eval()]).forward(torch.randn(rows, 32))
    assert seen == [before and not is_small] * 2
    assert torch.backends.mkldnn.enabled == before
