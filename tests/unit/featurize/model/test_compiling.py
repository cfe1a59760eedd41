"""Compiled blocks: the same features, and few graphs for all layers and packs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from featurize.model import blocks, likelihood
from featurize.model.agreement import compile_if_it_agrees
from featurize.model.backbone import Backbone
from featurize.model.batch import make_pack, make_padded
from featurize.model.blocks import compile_blocks, why_not_compiled
from featurize.model.forward import FeatureSpec, forward_batch
from tests.support.loaded_backbones import CPU, load
from tests.support.plain_features import largest_error, make_groups
from tests.support.tiny_models import NUM_LAYERS, write_tiny_model

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
def backbone(tmp_path: Path) -> Backbone:
    return load(write_tiny_model(tmp_path / "llama"), is_plain=True)


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "chunk_tokens", lambda _: 7)
    spec = FeatureSpec(layers=(2,), poolings=("mean",), likelihood=True)
    folder = write_tiny_model(tmp_path / "llama")
    backbone = load(folder, is_plain=True, with_lm_head=True)
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
