"""Computes features with the fastest forward pass that agrees with the plain one.

The packed forward computes a prompt once for all its outputs; the padded (plain) forward computes
every (prompt, output) sequence on its own.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from featurize.errors import CriticError
from featurize.model.attention import UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch, HostBatch, host_pack, host_padded, make_pack, make_padded
from featurize.model.families.family import first_line
from featurize.model.forward import Features, FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_packs, plan_padded
from featurize.model.rope import split_by_length
from featurize.model.transfer import Pending, start_copy

logger = logging.getLogger(__name__)

Forward = Literal["packed", "padded"]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a feature row at which two forwards agree.

A wrong mask or position gives 0.1 or more; in 16 bits, different batching alone gives 4-6e-3.
"""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The forward to run, and the reason in one sentence."""

    forward: Forward
    reason: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One forward pass: its prompts with their outputs, and its arrays in host memory."""

    pieces: Sequence[PromptGroup]
    batch: HostBatch


@dataclass(frozen=True, kw_only=True)
class Work:
    """Prompts whose features are wanted, planned into forward passes by `Engine.prepare`."""

    groups: Sequence[PromptGroup]
    num_rows: int
    batches: Sequence[Prepared]
    token_budget: int  # of the plan


@dataclass
class Engine:
    """Computes features in batches under a token budget, which bounds the memory."""

    backbone: Backbone
    spec: FeatureSpec
    forward: Forward
    token_budget: int
    may_halve: bool = True
    """Halve the budget when memory runs out. Ranks that share a backbone cannot: the others are
    inside the same forward pass."""
    depth: int | None = None
    """Batches that may be on the device at once; None: two on a GPU, which then never waits for the
    host, and one on a CPU."""

    def run(
        self,
        groups: Sequence[PromptGroup],
        num_rows: int,
        on_tokens: Callable[[int], None] | None = None,
    ) -> Features:
        """Compute the features of all groups; the result is on the host.

        When memory runs out, the token budget is halved and the remaining batches are planned anew.

        Args:
            groups: prompts with their outputs and feature rows.
            num_rows: number of feature rows.
            on_tokens: called after each batch with its number of tokens, each prompt counted once
                however often it was computed.

        Raises:
            torch.OutOfMemoryError: a single sequence does not fit.
            CriticError: a batch does not fit, and the budget must not be halved.
        """
        (features,) = self.stream([self.prepare(groups, num_rows)], on_tokens)
        return features

    def prepare(self, groups: Sequence[PromptGroup], num_rows: int) -> Work:
        """Plan the forward passes of some groups and build their arrays; any thread may.

        The arguments are those of `run`.
        """
        budget = self.token_budget
        batches = self._plan(groups, budget)
        return Work(groups=groups, num_rows=num_rows, batches=batches, token_budget=budget)

    def stream(
        self, works: Iterable[Work], on_tokens: Callable[[int], None] | None = None
    ) -> Iterator[Features]:
        """Compute the features of each work in turn, as `run` does.

        The next batch is started before the last one is read, across works too.
        """
        depth = self.depth or (2 if self.backbone.device.type == "cuda" else 1)
        started: deque[_Started] = deque()
        for work in works:
            result = _Result.of(work, self)
            for prepared, pending in self._start_all(work):
                started.append(_Started(result, prepared, pending, on_tokens))
                result.num_open += 1
                while len(started) >= depth:
                    yield from started.popleft().finish()
            result.is_started = True
            if not result.num_open:
                yield from _drain(started)  # of the works before one without batches
                yield result.features
        yield from _drain(started)

    def _start_all(self, work: Work) -> Iterator[tuple[Prepared, Pending]]:
        """Start the batches of a work, largest first, so that memory runs out early if it does."""
        is_current = work.token_budget == self.token_budget
        queue = deque(work.batches if is_current else self._plan(work.groups, self.token_budget))
        while queue:
            prepared = queue.popleft()
            pending = self._try(prepared)
            if pending is not None:
                yield prepared, pending
                continue
            self._halve()
            rest = [piece for one in (prepared, *queue) for piece in one.pieces]
            queue = deque(self._plan(rest, self.token_budget))

    def _plan(self, groups: Sequence[PromptGroup], token_budget: int) -> list[Prepared]:
        """Plan batches under the budget and build them, largest first."""
        plan, host = (
            (plan_packs, host_pack) if self.forward == "packed" else (plan_padded, host_padded)
        )
        pinned = self.backbone.device.type == "cuda"
        batches = [
            Prepared(pieces=pieces, batch=host(pieces, pinned=pinned))
            for part in split_by_length(groups, self.backbone.lengths)
            for pieces in plan(part, token_budget)
        ]
        return sorted(batches, key=lambda one: -one.batch.num_tokens)

    def _try(self, prepared: Prepared) -> Pending | None:
        """Start one batch and the copy of its features; None if memory ran out.

        NOTE: the caller frees memory after this has returned: as long as the error is referenced,
        so are the tensors in the frames of its traceback.
        """
        try:
            batch = prepared.batch.to(self.backbone.device)
            return start_copy(forward_batch(self.backbone, batch, self.spec))
        except UnsupportedAttention as error:
            raise CriticError(
                f"featurize.forward is packed, but this model cannot share prompts: {error}; set it"
                " to auto or padded"
            ) from error
        except RuntimeError as error:
            pieces = prepared.pieces
            is_single = len(pieces) == 1 and len(pieces[0].outputs) == 1
            if not is_out_of_memory(error) or is_single:
                raise
            if not self.may_halve:
                raise CriticError(
                    f"out of memory with featurize.token_budget {self.token_budget}, which ranks"
                    " that share a backbone cannot change while they run; set it to"
                    f" {self.token_budget // 2} and run the same command again"
                ) from error
        return None

    def _halve(self) -> None:
        self.token_budget = max(1, self.token_budget // 2)
        logger.warning("out of memory: featurize.token_budget is now %d", self.token_budget)
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass
class _Result:
    """The features of a work, filled batch by batch."""

    features: Features
    num_open: int = 0  # batches started and not read
    is_started: bool = False  # all batches of the work are
    seen: set[tuple[int, ...]] = field(default_factory=set)  # prompts counted

    @classmethod
    def of(cls, work: Work, engine: Engine) -> "_Result":
        spec, rows = engine.spec, work.num_rows
        likelihood = torch.empty((rows, len(spec.columns))) if spec.columns else None
        widths = spec.widths(engine.backbone.hidden_size)
        tensors = {name: torch.empty((rows, width)) for name, width in widths.items()}
        return cls(Features(tensors=tensors, likelihood=likelihood))


@dataclass
class _Started:
    """A batch on the device."""

    result: _Result
    prepared: Prepared
    pending: Pending
    on_tokens: Callable[[int], None] | None

    def finish(self) -> Iterator[Features]:
        """Read the batch; gives the features of its work if it was the last one of it."""
        result = self.result
        _scatter(self.pending.wait(), self.prepared.batch.rows, result.features)
        if self.on_tokens is not None:
            self.on_tokens(_unique_tokens(self.prepared.pieces, result.seen))
        result.num_open -= 1
        if result.is_started and not result.num_open:
            yield result.features


def _drain(started: deque[_Started]) -> Iterator[Features]:
    while started:
        yield from started.popleft().finish()


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
    # NOTE: a model that cannot run at all fails in the run itself, which also knows what to do
    # when memory runs out.
    with contextlib.suppress(RuntimeError, TypeError):
        _check_padded(backbone, spec, singles, dtype)
    return Choice(forward="padded", reason=reason)


def _check_padded(
    backbone: Backbone, spec: FeatureSpec, singles: Sequence[PromptGroup], dtype: torch.dtype
) -> None:
    """Raise CriticError if a row depends on its batch: the shortest is padded to the longest."""
    part = max(split_by_length(singles, backbone.lengths), key=len)
    pair = [min(part, key=_num_tokens), max(part, key=_num_tokens)]
    alone = features_of(backbone, spec, _alone(backbone, pair))
    if not all(bool(tensor.isfinite().all()) for tensor in alone.values()):
        return  # NaN in the weights or an overflow: the run names the sample
    padded = features_of(backbone, spec, [make_padded(pair, backbone.device)])
    difference = largest_difference(padded, alone)
    if not difference <= TOLERANCE[dtype]:
        raise CriticError(
            f"{type(backbone.decoder).__name__}: features of a sequence differ by {difference:.1e}"
            " when it is padded, so they would depend on the batch; give another models.policy.path"
        )


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
    states = [("last", "first") if name == "delta" else (name,) for name in spec.poolings]
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


def _scatter(found: Features, rows: Tensor, features: Features) -> None:
    """Write the rows of a batch to their places."""
    for name, tensor in found.tensors.items():
        features.tensors[name][rows] = tensor
    if features.likelihood is not None and found.likelihood is not None:
        features.likelihood[rows] = found.likelihood


def _unique_tokens(pieces: Sequence[PromptGroup], seen: set[tuple[int, ...]]) -> int:
    """Count the tokens of the pieces, each prompt only the first time it is seen."""
    tokens = 0
    for piece in pieces:
        tokens += sum(map(len, piece.outputs))
        if piece.prompt not in seen:
            seen.add(piece.prompt)
            tokens += len(piece.prompt)
    return tokens


OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Messages of errors of the CPU's allocator, and of libraries that allocate by themselves."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Recognise errors for lack of memory: CUDA has a class, others only a message."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        message in str(error) for message in OUT_OF_MEMORY
    )
