"""Blocks that were made faster compute what they did; features of whole models: test_engine."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featurize.model.blocks import PackedLinear, SlicedMLP, can_pack, speed_up

pytestmark = pytest.mark.skipif(not can_pack(), reason="this processor has no packed products")


class Mlp(nn.Module):
    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 48, bias=False)
        self.extra = extra or nn.Identity()
        self.lengths: list[int] = []

    def forward(self, hidden: Tensor) -> Tensor:
        self.lengths.append(hidden.shape[1])
        found: Tensor = self.down(self.act(self.up(self.extra(hidden))))
        return found


class Block(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp, self.proj = mlp, nn.Linear(48, 48)

    def forward(self, hidden: Tensor) -> Any:
        return self.mlp(self.proj(hidden))


@pytest.mark.parametrize("shape", [(1, 1), (1, 1300), (3, 700), (600, 2)])
@torch.inference_mode()
def test_faster_blocks_compute_the_same(shape):
    torch.manual_seed(0)
    blocks = nn.ModuleList([Block(Mlp())])
    hidden = torch.randn(*shape, 48)
    expected = blocks[0](hidden)
    speed_up(blocks)
    torch.testing.assert_close(blocks[0](hidden), expected, rtol=1e-5, atol=1e-6)
    strided = hidden.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(blocks[0](strided), expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_long_sequence_goes_through_the_mlp_in_slices():
    mlp = Mlp()
    blocks = nn.ModuleList([Block(mlp)])
    speed_up(blocks)
    blocks[0](torch.randn(1, 1300, 48))
    assert mlp.lengths == [512, 512, 276]


@torch.inference_mode()
def test_an_mlp_that_is_given_more_than_hidden_states_sees_them_whole():
    class Residual(Mlp):  # as Bloom has it
        def forward(self, hidden, residual):
            return super().forward(hidden) + residual

    blocks = nn.ModuleList([Block(Residual())])
    hidden, residual = torch.randn(1, 1300, 48), torch.randn(1, 1300, 48)
    expected = blocks[0].mlp(hidden, residual)
    speed_up(blocks)
    assert isinstance(blocks[0].mlp, SlicedMLP)
    torch.testing.assert_close(blocks[0].mlp(hidden, residual), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        blocks[0].mlp(hidden, residual=residual), expected, rtol=1e-5, atol=1e-6
    )


@torch.inference_mode()
def test_hidden_states_of_another_shape_go_through_the_mlp_whole():
    blocks = nn.ModuleList([Block(Mlp())])
    hidden = torch.randn(3, 1300, 48)
    expected = blocks[0].mlp(hidden)
    speed_up(blocks)
    for shape in ((3900, 48), (3, 1, 1300, 48)):
        found = blocks[0].mlp(hidden.view(shape))
        torch.testing.assert_close(found.view(3, 1300, 48), expected, rtol=1e-5, atol=1e-6)


def test_a_packed_weight_can_be_looked_at_and_is_kept_once():
    linear = nn.Linear(48, 96)
    packed = PackedLinear(linear)
    assert torch.equal(packed.weight, linear.weight)
    assert (packed.in_features, packed.out_features) == (48, 96)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]


@pytest.mark.parametrize(
    "mlp",
    [Mlp(nn.LayerNorm(48)), nn.Linear(48, 48), nn.Sequential(nn.Embedding(3, 48), Mlp())],
    ids=["a norm within", "one product", "weights of another kind"],
)
def test_what_is_no_plain_mlp_is_not_sliced(mlp):
    blocks = nn.ModuleList([Block(mlp)])
    speed_up(blocks)
    assert not isinstance(blocks[0].mlp, SlicedMLP)
    assert isinstance(blocks[0].proj, PackedLinear)


def test_weights_of_other_formats_and_subclasses_stay():
    class Scaled(nn.Linear):
        pass

    blocks = nn.ModuleList([Block(Scaled(48, 48)), Block(nn.Linear(48, 48).bfloat16())])
    speed_up(blocks)
    assert [type(block.mlp) for block in blocks] == [Scaled, nn.Linear]
