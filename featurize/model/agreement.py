"""Chooses the forward pass: the packed one if its features agree with those of the plain one."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featurize.errors import CriticError
from featurize.model.attention import UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch, host_pack, host_padded, make_pack, make_padded
from featurize.model.engine import Forward, is_out_of_memory
from featurize.model.families.family import first_line
from featurize.model.forward import FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_padded
from featurize.model.rope import split_by_length
from featurize.settings import Pooling

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
    spec = _without_differences(spec)
    probe = probe_groups(groups)
    singles = [single for batch in plan_padded(probe, 1) for single in batch]
    try:
        packs = [
            make_pack(part, backbone.device) for part in split_by_length(probe, backbone.lengths)
        ]
        packed = features_of(backbone, spec, packs)
    except (UnsupportedAttention, TypeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        # A model may refuse the layout; any other TypeError is a fault of ours, or of a library.
        if isinstance(error, TypeError) and "layout" not in str(error):
            raise
        reason = f"this model cannot share prompts: {first_line(error)}"
    else:
        difference = largest_difference(
            packed, features_of(backbone, spec, _alone(backbone, singles))
        )
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
    spec = _without_differences(spec)
    singles = [single for batch in plan_padded(probe_groups(groups), 1) for single in batch]
    # NOTE: a model that cannot run at all fails in the run itself, which also knows what to do
    # when memory runs out.
    with contextlib.suppress(RuntimeError, TypeError):
        difference = _padded_difference(backbone, spec, singles, dtype)
        if difference is not None:
            return f"padded sequences agree with those alone to {difference:.1e}"
    return "padded sequences could not be compared"


def _padded_difference(
    backbone: Backbone, spec: FeatureSpec, singles: Sequence[PromptGroup], dtype: torch.dtype
) -> float | None:
    """Pad the shortest sequence to the longest, and compare; None if the rows are not finite."""
    part = max(split_by_length(singles, backbone.lengths), key=len)
    pair = [min(part, key=_num_tokens), max(part, key=_num_tokens)]
    alone = features_of(backbone, spec, _alone(backbone, pair))
    if not all(bool(tensor.isfinite().all()) for tensor in alone.values()):
        return None  # NaN in the weights or an overflow: the run names the sample
    padded = features_of(backbone, spec, [make_padded(pair, backbone.device)])
    difference = largest_difference(padded, alone)
    if not difference <= TOLERANCE[dtype]:
        raise CriticError(
            f"{type(backbone.decoder).__name__}: features of a sequence differ by {difference:.1e}"
            " when it is padded, so they would depend on the batch; give another models.policy.path"
        )
    return difference


def _alone(backbone: Backbone, singles: Sequence[PromptGroup]) -> list[Batch]:
    return [make_padded([single], backbone.device) for single in singles]


def _num_tokens(group: PromptGroup) -> int:
    return group.num_tokens


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


def probe_features(
    backbone: Backbone, spec: FeatureSpec, forward: Forward, groups: Sequence[PromptGroup]
) -> dict[str, Tensor]:
    """Compute the features of the samples of `probe_groups` with one of the forwards, by name."""
    spec = _without_differences(spec)
    probe = probe_groups(groups)
    host = host_pack if forward == "packed" else host_padded
    parts = split_by_length(probe, backbone.lengths)
    if forward == "padded":
        parts = [batch for part in parts for batch in plan_padded(part, 10**9)]
    return features_of(backbone, spec, [host(part).to(backbone.device) for part in parts])


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


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the maximum over rows of |found - expected| / |expected|; inf if any is not finite."""
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    norms = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((found - expected).norm(dim=1) / norms).max())


def features_of(
    backbone: Backbone, spec: FeatureSpec, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Compute all features of some batches by name, ordered by feature row: [rows, width] each."""
    order = torch.cat([batch.rows.cpu() for batch in batches]).argsort()
    found = [forward_batch(backbone, batch, spec) for batch in batches]
    named = {
        name: torch.cat([features.tensors[name].cpu() for features in found])[order]
        for name in spec.tensor_names
    }
    if spec.columns:
        parts = [part.likelihood.cpu() for part in found if part.likelihood is not None]
        named["likelihood"] = torch.cat(parts)[order]
    return named
