import pytest
import torch
from headtrain.training.dropout import Dropout

from headtrain.training.batched_heads import SMALL, HeadStack, Masks
from headtrain.training.optimizer import StackedAdamW
from tests.support.head_jobs import CPU, make_model


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("mixed", [None, (20, 12)])
@pytest.mark.parametrize("direct", [0, 3])
def test_values_and_gradients_are_those_of_autograd(
    number: int, kind: str, mixed: tuple[int, ...] | None, direct: int
) -> None:
    models = [make_model(seed, 32, mixed, kind, direct).eval() for seed in range(number)]
    references = [make_model(seed, 32, mixed, kind, direct).eval() for seed in range(number)]
    if direct:
        for place, pair in enumerate(zip(models, references, strict=True)):
            for model in pair:
                model.direct.data = torch.tensor([[0.4, -0.3, 0.1]]) * (place + 1)
    if mixed:
        for place, pair in enumerate(zip(models, references, strict=True)):
            for model in pair:
                model.mix.data = torch.tensor([0.4, -0.3]) * (place + 1)
    stack = HeadStack(models)
    inputs, pull = torch.randn(number, 6, 32), torch.randn(number, 6)
    for accumulate in (False, True):  # the second adds the same once more
        values = stack.forward(inputs.view(*stack.heads, 6, 32))
        stack.backward(pull.view(values.shape), accumulate=accumulate)
    for head, model in enumerate(references):
        expected = model(inputs[head]).squeeze(-1)
        torch.testing.assert_close(values.view(number, 6)[head], expected, rtol=1e-5, atol=1e-6)
        (expected * pull[head]).sum().backward()
        gradients = [p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]
        torch.testing.assert_close(
            stack.gradients[head], 2 * torch.cat(gradients), rtol=1e-4, atol=1e-5
        )
        norm = 2 * torch.cat(gradients).norm()
        torch.testing.assert_close(stack.norms()[head], norm, rtol=1e-4, atol=1e-6)


def test_masks_multiply_the_hidden_layers_both_ways() -> None:
    model, reference = make_model(1, 32), make_model(1, 32)
    stack = HeadStack([model])
    inputs, pull = torch.randn(6, 32), torch.randn(6)
    masks = Masks(torch.rand(6, 4).round() * 2, torch.rand(6, 2).round() * 2)
    values = stack.forward(inputs, masks)
    stack.backward(pull, accumulate=False)
    first, second, last = (reference.head.mlp[place] for place in (0, 3, 6))
    gelu = torch.nn.functional.gelu
    hidden = gelu(second(gelu(first(inputs)) * masks.first)) * masks.second
    expected = last(hidden).squeeze(-1)
    torch.testing.assert_close(values, expected)
    (expected * pull).sum().backward()
    gradients = torch.cat(
        [p.grad.reshape(-1) for p in reference.parameters() if p.grad is not None]
    )
    torch.testing.assert_close(stack.gradients[0], gradients, rtol=1e-4, atol=1e-6)


def test_products_in_bfloat16_agree_with_autocast() -> None:
    reference = make_model(1, 256).eval()
    stack = HeadStack([make_model(1, 256).eval()], product_dtype=torch.bfloat16)
    inputs, pull = torch.randn(64, 256), torch.randn(64)
    values = stack.forward(inputs)
    stack.backward(pull, accumulate=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = reference(inputs).squeeze(-1).float()
    assert values.dtype == stack.gradients.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=0.02, atol=0.01)
    (expected * pull).sum().backward()
    gradients = torch.cat(
        [p.grad.reshape(-1) for p in reference.parameters() if p.grad is not None]
    )
    assert (stack.gradients[0] - gradients).norm() < 0.02 * gradients.norm()


def test_models_follow_the_training_of_their_stack() -> None:
    models = [make_model(seed, 32) for seed in (0, 1)]
    stack = HeadStack(models)
    stack.parameters.zero_()
    assert all(float(p.detach().abs().sum()) == 0 for m in models for p in m.parameters())
    with pytest.raises(ValueError, match="one shape"):
        HeadStack([make_model(0, 32), make_model(0, 16)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    masks = Dropout([share], [7], (16, 8), CPU).draw(3, 0, 4000)
    if not share:
        assert masks is None
        return
    assert masks is not None
    both = torch.cat([masks.first, masks.second], dim=1)
    assert both.shape == (4000, 24)
    assert (both == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    assert both.mean().item() == pytest.approx(1, abs=0.01)
    assert both.unique().numel() == 2
    assert torch.corrcoef(both.T).fill_diagonal_(0).abs().max() < 0.08  # columns are independent


def test_masks_depend_on_seed_step_and_batch_and_not_on_the_rows_after() -> None:
    dropout = Dropout([0.5, 0.5, 0.2], [7, 7, 8], (15, 7), CPU)
    masks = dropout.draw(3, 0, 9)
    assert masks is not None
    assert torch.equal(masks.first[0], masks.first[1])
    assert not torch.equal(masks.first[0] == 0, masks.first[2] == 0)
    for other in (dropout.draw(4, 0, 9), dropout.draw(3, 1, 9)):
        assert other is not None
        assert not torch.equal(other.first[0], masks.first[0])
    alone = Dropout([0.2], [8], (15, 7), CPU).draw(3, 0, 5)
    assert alone is not None
    assert torch.equal(alone.first, masks.first[2, :5])
    assert torch.equal(alone.second, masks.second[2, :5])


def test_the_optimizer_is_torch_adamw_with_clipped_gradients() -> None:
    weights = torch.randn(2, 50)
    ours, gradients = weights.clone(), torch.empty(2, 50)
    optimizer = StackedAdamW(ours, gradients, [0.1, 0.0])
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
        optimizer.step(rates, scales)
        for head, (row, reference) in enumerate(zip(rows, theirs, strict=True)):
            row.grad = drawn[head].clone()
            torch.nn.utils.clip_grad_norm_([row], 1.0 if head == 0 else 1e9)
            reference.param_groups[0]["lr"] = rates[head]
            reference.step()
    torch.testing.assert_close(ours, torch.stack([row.detach() for row in rows]))


def test_an_optimizer_goes_on_from_its_state() -> None:
    def make() -> tuple[torch.Tensor, StackedAdamW]:
        weights = torch.ones(1, 9)
        return weights, StackedAdamW(weights, torch.full((1, 9), 0.3), [0.1])

    weights, first = make()
    first.step([0.1], None)
    other, second = make()
    other.copy_(weights)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    first.step([0.1], None)
    second.step([0.1], None)
    assert torch.equal(weights, other)


@pytest.mark.parametrize(("rows", "is_small"), [(8, True), (SMALL, False)])
def test_only_small_hidden_layers_go_without_onednn(
    rows: int, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, gelu = [], torch.nn.functional.gelu

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.mkldnn.enabled)
        if hidden.isnan().any():
            raise ValueError("stopped")
        return gelu(hidden)

    monkeypatch.setattr(torch.nn.functional, "gelu", watched)
    stack = HeadStack([make_model(1, 32).eval()])
    before = torch.backends.mkldnn.enabled
    values = stack.forward(torch.randn(rows, 32))
    stack.backward(torch.randn(values.shape), accumulate=False)
    assert seen == [before and not is_small] * 2
    assert torch.backends.mkldnn.enabled == before
    with pytest.raises(ValueError, match="stopped"):
        stack.forward(torch.full((rows, 32), torch.nan))
    assert torch.backends.mkldnn.enabled == before
