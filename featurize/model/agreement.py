"""Chooses the forward pass: the packed one if its features agree with those of the plain one.

The comparison runs hundreds of tokens through the model twice. Its result depends only on the
model, the libraries, the device and the number format, so it can be remembered in a file.
"""

import contextlib
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from featurize.errors import CriticError
from featurize.io.files import digest, read_json, write_json
from featurize.model.attention import UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch, make_pack, make_padded
from featurize.model.blocks import compile_blocks
from featurize.model.decoder import split_by_length
from featurize.model.engine import Forward, is_out_of_memory
from featurize.model.families.family import first_line
from featurize.model.forward import FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_padded
from featurize.settings import Pooling

logger = logging.getLogger(__name__)

PROBE_VERSION = 3
"""Raise it when `choose_forward` compares otherwise: verdicts of an earlier one do not count."""

_LIBRARIES = ("critic", "torch", "transformers")

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a feature row at which two forwards agree.

A wrong mask or position gives 0.1 or more; in 16 bits, different batching alone gives 4-6e-3.
"""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The forward to run, and the reason in one sentence."""

    forward: Forward
    reason: str


def choose_forward(
    backbone: Backbone, spec: FeatureSpec, groups: Sequence[PromptGroup], dtype: torch.dtype
) -> Choice:
    """Choose the packed forward if it agrees with the plain one, else the padded one if it does.

    Both are compared with every (prompt, output) sequence on its own, on the samples of
    `probe_groups`.

    Raises:
        CriticError: neither agrees.
    """
    try:
        packed = probe_features(backbone, spec, "packed", groups)
    except (UnsupportedAttention, TypeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        # A model may refuse the layout; any other TypeError is a fault of ours, or of a library.
        if isinstance(error, TypeError) and "layout" not in str(error):
            raise
        reason = f"this model cannot share prompts: {first_line(error)}"
    else:
        difference = largest_difference(packed, probe_features(backbone, spec, "alone", groups))
        if difference <= TOLERANCE[dtype]:
            reason = f"shared prompts agree with the plain forward to {difference:.1e}"
            return Choice(forward="packed", reason=reason)
        reason = f"shared prompts differ from the plain forward by {difference:.1e}"
    check_padded(backbone, spec, groups, dtype)
    return Choice(forward="padded", reason=reason)


def check_padded(
    backbone: Backbone, spec: FeatureSpec, groups: Sequence[PromptGroup], dtype: torch.dtype
) -> str:
    """Compare padded sequences with sequences alone, on the samples of `probe_groups`.

    Returns:
        What was found, in half a sentence.

    Raises:
        CriticError: a row depends on its batch.
    """
    # NOTE: a model that cannot run at all fails in the run itself, which also knows what to do
    # when memory runs out.
    with contextlib.suppress(RuntimeError, TypeError):
        alone = probe_features(backbone, spec, "alone", groups)
        # Else there is NaN in the weights, or an overflow: the run names the sample.
        if all(bool(tensor.isfinite().all()) for tensor in alone.values()):
            padded = probe_features(backbone, spec, "padded", groups)
            difference = largest_difference(padded, alone)
            if not difference <= TOLERANCE[dtype]:
                raise CriticError(
                    f"{type(backbone.decoder).__name__}: features of a sequence differ by"
                    f" {difference:.1e} when it is padded, so they would depend on the batch; give"
                    " another models.policy.path"
                )
            return f"padded sequences agree with those alone to {difference:.1e}"
    return "padded sequences could not be compared"


def compile_if_it_agrees(
    backbone: Backbone,
    spec: FeatureSpec,
    forward: Forward,
    groups: Sequence[PromptGroup],
    dtype: torch.dtype,
) -> str:
    """Compile the blocks unless that changes features by more than another batch does.

    Returns:
        What was done, and why, in one sentence.
    """
    plain = probe_features(backbone, spec, forward, groups)
    undo = compile_blocks(backbone.blocks)
    difference = largest_difference(probe_features(backbone, spec, forward, groups), plain)
    if difference <= TOLERANCE[dtype]:
        return f"compiled blocks: they agree with the plain ones to {difference:.1e}"
    undo()
    return f"plain blocks: compiled ones differ from them by {difference:.1e}"


def remembered_choice(
    folder: Path,
    choose: Callable[[], Choice],
    *,
    backbone: str,
    spec: FeatureSpec,
    device: torch.device,
    dtype: torch.dtype,
) -> Choice:
    """Return the choice that `choose` made under the same conditions before, else let it choose.

    Args:
        folder: of one file for each digest of conditions; if it cannot be written to, nothing is
            remembered.
        choose: compares the forwards (`choose_forward`).
        backbone: digest of the weights.
        dtype: number format of the forward pass.
    """
    conditions = {
        "probe": PROBE_VERSION,
        "backbone": backbone,
        "tensors": spec.tensor_names,
        "likelihood": spec.likelihood,
        **({"question": spec.question} if spec.question else {}),
        "device": _device_name(device),
        "dtype": str(dtype),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    path = folder / f"{digest(conditions)}.json"
    if (known := _read(path, conditions)) is not None:
        return known
    choice = choose()
    with contextlib.suppress(OSError):
        write_json(path, {**conditions, "forward": choice.forward, "reason": choice.reason})
    return choice


def _read(path: Path, conditions: dict[str, Any]) -> Choice | None:
    try:
        found = read_json(path)
        if all(found[name] == value for name, value in conditions.items()):
            return Choice(forward=found["forward"], reason=found["reason"])
    except (ValueError, OSError, KeyError, TypeError):
        logger.debug("%s: no usable verdict", path)
    return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {sorted(torch.cpu.get_capabilities().items())}"


def largest_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest relative error of a row over all features."""
    return max(relative_error(found[name], expected[name]) for name in expected)


def probe_groups(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """Make two prompts with two different outputs of unequal length each.

    They are the group with the longest sequence, to detect a sliding window, and the smallest
    other, to detect attention across prompts. What is missing is made up of their tokens: a pack of
    one sequence is the plain forward, whatever the model does.
    """
    longest = max(groups, key=lambda group: len(group.prompt) + max(map(len, group.outputs)))
    others = [group for group in groups if group is not longest]
    second = min(others, key=lambda group: group.num_tokens, default=_make_up_group(longest))
    return [
        replace(group, outputs=_two_outputs(group), rows=(row, row + 1))
        for group, row in ((longest, 0), (second, 2))
    ]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the maximum over rows of |found - expected| / |expected|; inf if any is not finite."""
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    norms = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((found - expected).norm(dim=1) / norms).max())


def probe_features(
    backbone: Backbone,
    spec: FeatureSpec,
    how: Literal["packed", "padded", "alone"],
    groups: Sequence[PromptGroup],
) -> dict[str, Tensor]:
    """Compute the features of the samples of `probe_groups` by name: [rows, width] each."""
    parts = split_by_length(probe_groups(groups), backbone.lengths)
    if how == "packed":
        batches = [make_pack(part, backbone.device) for part in parts]
    else:
        budget = 1 if how == "alone" else 10**9
        plans = (singles for part in parts for singles in plan_padded(part, budget))
        batches = [make_padded(singles, backbone.device) for singles in plans]
    return _features_of(backbone, _without_differences(spec), batches)


def _without_differences(spec: FeatureSpec) -> FeatureSpec:
    """Compare the two states of `delta` in its place.

    Where they are nearly equal, the rounding of each is large beside their difference, whatever
    the batch.
    """
    states: list[tuple[Pooling, ...]] = [
        ("last", "first") if name == "delta" else (name,) for name in spec.poolings
    ]
    return replace(spec, poolings=tuple(dict.fromkeys(name for some in states for name in some)))


def _two_outputs(group: PromptGroup) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Take the longest output and the shortest, made up if no other length is there."""
    longest, shortest = max(group.outputs, key=len), min(group.outputs, key=len)
    if len(longest) == len(shortest):
        own, suffix = _split_suffix(longest, group)
        shortest = _change_length(own) + suffix
    return longest, shortest


def _split_suffix(
    output: tuple[int, ...], group: PromptGroup
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split the ids of an output from those that follow it."""
    length = len(output) - group.num_end - group.num_question
    return output[:length], output[length:]


def _make_up_group(group: PromptGroup) -> PromptGroup:
    own, suffix = _split_suffix(max(group.outputs, key=len), group)
    outputs = (own[::-1] + suffix,)
    return replace(group, prompt=_change_length(group.prompt), outputs=outputs, rows=(0,))


def _change_length(ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the last half of some ids backwards; of a single one twice the same."""
    return ids[::-1][: len(ids) // 2] if len(ids) > 1 else ids * 2


def _features_of(
    backbone: Backbone, spec: FeatureSpec, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Compute all features of some batches, ordered by feature row."""
    order = torch.cat([batch.rows for batch in batches]).argsort()
    found = [forward_batch(backbone, batch, spec).named() for batch in batches]
    return {name: torch.cat([one[name].cpu() for one in found])[order] for name in found[0]}
