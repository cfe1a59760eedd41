"""Faster blocks: the same features; packed on a CPU, and compiled with few graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from featurize.model import blocks, likelihood
from featurize.model.agreement import compile_if_it_agrees
from featurize.model.backbone import Backbone
from featurize.model.batch import make_pack, make_padded
from featurize.model.blocks import (
    PackedLinear,
    SlicedMLP,
    can_pack,
    compile_blocks,
    speed_up,
    why_not_compiled,
)
from featurize.model.forward import FeatureSpec, forward_batch
from tests.support.loaded_backbones import CPU, load
from tests.support.plain_features import largest_error, make_groups
from tests.support.tiny_models import NUM_LAYERS

needs_products = pytest.mark.skipif(not can_pack(), reason="this processor has no packed products")


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


@needs_products
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


@needs_products
@torch.inference_mode()
def test_a_long_sequence_goes_through_the_mlp_in_slices():
    mlp = Mlp()
    blocks = nn.ModuleList([Block(mlp)])
    speed_up(blocks)
    blocks[0](torch.randn(1, 1300, 48))
    assert mlp.lengths == [512, 512, 276]


@needs_products
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


@needs_products
@torch.inference_mode()
def test_hidden_states_of_another_shape_go_through_the_mlp_whole():
    blocks = nn.ModuleList([Block(Mlp())])
    hidden = torch.randn(3, 1300, 48)
    expected = blocks[0].mlp(hidden)
    speed_up(blocks)
    for shape in ((3900, 48), (3, 1, 1300, 48)):
        found = blocks[0].mlp(hidden.view(shape))
        torch.testing.assert_close(found.view(3, 1300, 48), expected, rtol=1e-5, atol=1e-6)


@needs_products
def test_a_packed_weight_can_be_looked_at_and_is_kept_once():
    linear = nn.Linear(48, 96)
    packed = PackedLinear(linear)
    assert torch.equal(packed.weight, linear.weight)
    assert (packed.in_features, packed.out_features) == (48, 96)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]


@needs_products
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


@needs_products
def test_weights_of_other_formats_and_subclasses_stay():
    class Scaled(nn.Linear):
        pass

    blocks = nn.ModuleList([Block(Scaled(48, 48)), Block(nn.Linear(48, 48).bfloat16())])
    speed_up(blocks)
    assert [type(block.mlp) for block in blocks] == [Scaled, nn.Linear]


CUDA = torch.device("cuda", 0)
SPEC = FeatureSpec(layers=(0, 2, NUM_LAYERS), poolings=("mean", "last"), likelihood=False)
PACKS = [
    make_groups(lengths)
    for lengths in (
        [(5, (4, 9)), (8, (3,))],
        [(50, (14, 9, 2)), (1, (1,))],
        [(3, (2, 1))],
        [(1, (1,)), (7, (30, 2))],
        [(9, (9, 9, 9))],
    )
]


@pytest.fixture
def backbone(llama: Path) -> Backbone:
    return load(llama, is_plain=True)


def count_graphs(counted: list[int]) -> Callable[..., Any]:
    """A backend that runs graphs as they are; `counted` gets the operators of each."""

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        counted.append(len(graph.graph.nodes))
        return graph

    return backend


@pytest.mark.skipif(
    blocks.torch_version() < blocks.MIN_TORCH, reason="this torch compiles for every pack"
)
def test_packs_of_any_size_share_the_graphs_of_the_first_ones(backbone: Backbone) -> None:
    batches = [make_pack(groups, CPU) for groups in PACKS]
    expected = [forward_batch(backbone, batch, SPEC) for batch in batches]
    graphs: list[int] = []
    undo = compile_blocks(backbone.blocks, count_graphs(graphs))
    found = [forward_batch(backbone, batch, SPEC) for batch in batches[:2]]
    num_graphs = len(graphs)
    assert 2 <= num_graphs <= 4  # before and after attention, and once more for other layers
    found += [forward_batch(backbone, batch, SPEC) for batch in batches[2:]]
    assert len(graphs) == num_graphs
    for ours, plain in zip(found, expected, strict=True):
        assert largest_error(ours, plain) <= 1e-6
    undo()
    forward_batch(backbone, make_pack(make_groups([(9, (9,))]), CPU), SPEC)
    assert all("forward" not in vars(block) for block in backbone.blocks)


def test_the_padded_forward_may_be_compiled_too(backbone: Backbone) -> None:
    batch = make_padded(make_groups([(5, (4,)), (8, (3,))]), CPU)
    expected = forward_batch(backbone, batch, SPEC)
    graphs: list[int] = []
    undo = compile_blocks(backbone.blocks, count_graphs(graphs))
    assert largest_error(forward_batch(backbone, batch, SPEC), expected) <= 1e-6
    undo()
    assert graphs


def test_the_likelihood_of_chunks_of_any_size_shares_few_graphs(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "chunk_tokens", lambda _: 7)
    spec = FeatureSpec(layers=(2,), poolings=("mean",), likelihood=True)
    backbone = load(llama, is_plain=True, with_lm_head=True)
    batches = [make_padded(make_groups([size]), CPU) for size in [(5, (30,)), (3, (12,))]]
    expected = [forward_batch(backbone, batch, spec).likelihood for batch in batches]
    graphs: list[int] = []
    undo = compile_blocks(nn.ModuleList(), count_graphs(graphs))
    found = [forward_batch(backbone, batch, spec).likelihood for batch in batches]
    undo()
    assert len(graphs) == 1  # chunks of 7, 2 and 5 tokens
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert likelihood.of_tokens is likelihood.plain_of_tokens


@pytest.mark.parametrize(("scale", "is_compiled"), [(1.0, True), (1.1, False)])
def test_compiled_blocks_stay_only_if_the_features_agree(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, scale: float, is_compiled: bool
) -> None:
    def compile_with_error(function: Callable[..., Any], **_options: Any) -> Callable[..., Any]:
        return lambda *args, **named: function(*args, **named) * scale

    monkeypatch.setattr(blocks.torch, "compile", compile_with_error)
    note = compile_if_it_agrees(backbone, SPEC, "packed", PACKS[0], torch.float32)
    assert note.startswith("compiled blocks: they agree" if is_compiled else "plain blocks: ")
    assert all(("forward" in vars(block)) is is_compiled for block in backbone.blocks)


@pytest.mark.parametrize(
    ("device", "sharing", "capability", "reason"),
    [
        (CUDA, {}, (9, 0), None),
        (CPU, {}, (9, 0), "the backbone runs on cpu"),
        (CUDA, {"is_shared": True}, (9, 0), "shared among devices"),
        (CUDA, {"is_quantized": True}, (9, 0), "quantized weights"),
        (CUDA, {}, (6, 1), "below 7.0"),
    ],
)
def test_it_says_why_it_has_no_effect(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    sharing: dict[str, bool],
    capability: tuple[int, int],
    reason: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(blocks.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(blocks, "torch_version", lambda: (2, 13))
    options = {"is_shared": False, "is_quantized": False} | sharing
    found = why_not_compiled(device, **options)
    assert (found is None) is (reason is None)
    assert reason is None or reason in (found or "")
    monkeypatch.setattr(blocks.importlib.util, "find_spec", lambda _: None)
    assert why_not_compiled(device, **options) is not None
    monkeypatch.setattr(blocks.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(blocks, "torch_version", lambda: (2, 12))
    assert why_not_compiled(device, **options) is not None
