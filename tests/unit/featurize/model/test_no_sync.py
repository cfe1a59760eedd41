"""The forward pass as a GPU runs it: through torch's own kernel, without making the host wait.

On the meta device tensors have shapes and no values, so whatever would read a value raises.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from featurize.model import attention
from featurize.model.backbone import Backbone
from featurize.model.batch import make_pack, make_padded
from featurize.model.forward import FeatureSpec, forward_batch, single_sequences
from featurize.model.packing import PromptGroup
from featurize.model.pooling import POOLINGS
from tests.support.loaded_backbones import CPU, load
from tests.support.plain_features import largest_error, make_groups
from tests.support.tiny_models import NUM_LAYERS, write_tiny_model
from tests.support.varlen_kernel import Kernel

META = torch.device("meta")
SPEC = FeatureSpec(
    layers=tuple(range(NUM_LAYERS + 1)), poolings=tuple(POOLINGS), likelihood=True, segments=4
)
SIZES = [(5, (1, 12, 3)), (21, (17, 8)), (1, (4,))]
GROUPS = make_groups(SIZES)
SYNCS = (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2",
    "bincount", "histc",
)  # fmt: skip
"""Operators whose result, or its shape, the host needs."""


@pytest.fixture(params=["llama", "gemma3"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """A tiny model with grouped heads, without and with sliding windows; plain layers."""
    folder = write_tiny_model(tmp_path / request.param, request.param)
    return load(folder, with_lm_head=True, is_plain=True)


def with_prefixes(group: PromptGroup) -> PromptGroup:
    """The group with a row for the first token of each output, and for the whole output."""
    return replace(
        group, prefixes=tuple(tuple(sorted({1, len(output)})) for output in group.outputs)
    )


class NoSyncs(TorchDispatchMode):
    """Raises where an operator makes the host wait for a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        options = kwargs or {}
        assert name not in SYNCS, f"{name} makes the host wait"
        if name == "repeat_interleave":
            assert options.get("output_size") is not None, "repeat_interleave waits for its size"
        if name == "segment_reduce":
            assert options.get("unsafe"), "segment_reduce waits for a check"
        if name in ("index", "index_put", "index_put_"):
            masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype == torch.bool]
            assert not masks, f"{name} by a mask waits for the number of places"
        return func(*args, **options)


def test_a_pack_runs_through_the_installed_kernel_on_the_meta_device(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_why_not_on", lambda _: None)
    calls: list[tuple[int, int]] = []
    plain = varlen.varlen_attn

    def spy(*args: Any, **options: Any) -> Any:
        calls.append(options.get("window_size", (-1, -1)))
        return plain(*args, **options)

    spy.__signature__ = attention.inspect.signature(plain)  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", spy)
    decoder = backbone.decoder.to(dtype=torch.bfloat16, device=META)  # type: ignore[arg-type]
    lm_head = backbone.lm_head
    assert lm_head is not None
    on_meta = replace(
        backbone, decoder=decoder, lm_head=lm_head.to(META, torch.bfloat16), device=META
    )
    features = forward_batch(on_meta, make_pack(GROUPS, META), SPEC)
    assert set(features.tensors) == set(SPEC.tensor_names)
    widths = SPEC.widths(backbone.hidden_size)
    assert {name: tensor.shape for name, tensor in features.tensors.items()} == {
        name: (6, width) for name, width in widths.items()
    }
    assert features.likelihood is not None
    assert features.likelihood.shape == (6, 4)
    windows = [call for call in calls if call[0] >= 0]
    assert len(calls) - len(windows) == 2 * (NUM_LAYERS - len(windows))
    assert bool(windows) == (backbone.decoder.config.model_type == "gemma3_text")


@pytest.mark.parametrize(
    ("groups", "spec"),
    [
        pytest.param(GROUPS, SPEC, id="outputs"),
        pytest.param(
            make_groups(SIZES, end=(7,), question=(8, 9)),
            replace(SPEC, question=True, answers=(3, 4)),
            id="a question",
        ),
        pytest.param(
            [with_prefixes(group) for group in GROUPS], replace(SPEC, segments=None), id="prefixes"
        ),
    ],
)
def test_no_operator_of_a_batch_makes_the_host_wait(
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    groups: list[PromptGroup],
    spec: FeatureSpec,
) -> None:
    expected = forward_batch(backbone, make_pack(groups, CPU), spec)
    singles = [group.take([place]) for group in groups for place in range(len(group.outputs))]
    pack, padded = make_pack(groups), make_padded(singles)
    monkeypatch.setattr(attention, "why_no_kernel", lambda *_: None)
    monkeypatch.setattr(varlen, "varlen_attn", outside_of_modes(Kernel()))
    monkeypatch.setattr(torch, "tensor", refuse_upload)
    with NoSyncs():
        packed = forward_batch(backbone, pack.to(CPU), spec)
        alone = forward_batch(backbone, padded.to(CPU), spec)
    assert largest_error(packed, expected) <= 1e-5
    assert largest_error(alone, expected) <= 1e-5


def test_other_threads_and_other_models_still_look_for_packed_sequences() -> None:
    packed = torch.tensor([[0, 1, 2, 0, 1]])
    with single_sequences():
        assert masking_utils.find_packed_sequence_indices(packed) is None
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(masking_utils.find_packed_sequence_indices, packed).result()
    for found in (elsewhere, masking_utils.find_packed_sequence_indices(packed)):
        assert found is not None
        assert found.tolist() == [[0, 0, 0, 1, 1]]


def test_the_check_sees_what_makes_the_host_wait() -> None:
    numbers = torch.tensor([1, 2])
    for wait in (
        lambda: numbers.sum().item(),
        lambda: numbers[numbers > 1],
        lambda: torch.repeat_interleave(numbers, numbers),
        lambda: torch.segment_reduce(torch.ones(3), "sum", lengths=numbers),
    ):
        with NoSyncs(), pytest.raises(AssertionError, match="wait"):
            wait()


def refuse_upload(*_args: Any, **_options: Any) -> Tensor:
    """Stands for torch.tensor, whose copy to a GPU makes the host wait."""
    raise AssertionError("torch.tensor makes the host wait")


def outside_of_modes(kernel: Kernel) -> Any:
    """The stand-in reads values to check its input, which the kernel itself does not."""

    def call(*args: Any, **options: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return kernel(*args, **options)

    call.__signature__ = attention.inspect.signature(kernel)  # type: ignore[attr-defined]
    return call
