"""Features of grouped samples by the fastest forward that agrees with the plain one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from featurize.model.attention import UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch, make_pack, make_padded
from featurize.model.forward import Features, FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_packs, plan_padded
from featurize.store import LIKELIHOOD_COLUMNS

logger = logging.getLogger(__name__)

Forward = Literal["packed", "padded"]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a feature row at which two forwards agree.

A wrong mask or position shows as 0.1 and more; in 16 bits re-batching alone gives 4-6e-3.
"""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which forward runs, and why, in a sentence."""

    forward: Forward
    reason: str


class Engine:
    """Computes features; the memory of a forward pass is bounded by the token budget."""

    def __init__(
        self,
        backbone: Backbone,
        spec: FeatureSpec,
        forward: Forward,
        token_budget: int,
        *,
        may_halve: bool = True,
    ) -> None:
        """`forward` is what `choose_forward` found, or what the user asks for.

        `may_halve` is false where several ranks run the same batches: one that ran out of memory
        cannot tell the others, which are within the same forward pass.
        """
        self.backbone = backbone
        self.spec = spec
        self.forward = forward
        self.token_budget = token_budget
        self.may_halve = may_halve

    def run(
        self,
        groups: Sequence[PromptGroup],
        num_rows: int,
        on_tokens: Callable[[int], None] | None = None,
    ) -> Features:
        """Features of all groups, at their feature rows, on the host.

        On a device that runs out of memory the token budget is halved and the rest goes on.
        `on_tokens` is told the tokens of each finished batch that a prompt shared by its outputs
        would have, whatever was computed twice.

        Raises:
            torch.OutOfMemoryError: a single sequence does not fit.
            ValueError: a batch does not fit, and the budget must stay.
        """
        spec, width = self.spec, self.backbone.hidden_size
        tensors = {name: torch.empty((num_rows, width)) for name in spec.tensor_names}
        likelihood = torch.empty((num_rows, len(LIKELIHOOD_COLUMNS))) if spec.likelihood else None
        queue = self._plan(groups)
        seen: set[tuple[int, ...]] = set()
        while queue:
            pieces = queue.pop()
            done = self._try(pieces)
            if done is None:
                self._halve()
                queue = self._plan([piece for rest in [*queue, pieces] for piece in rest])
                continue
            _scatter(*done, tensors, likelihood)
            if on_tokens is not None:
                on_tokens(_unique_tokens(pieces, seen))
        return Features(tensors=tensors, likelihood=likelihood)

    def _plan(self, groups: Sequence[PromptGroup]) -> list[list[PromptGroup]]:
        plan = plan_packs if self.forward == "packed" else plan_padded
        return plan(groups, self.token_budget)

    def _make(self, pieces: Sequence[PromptGroup]) -> Batch:
        make = make_pack if self.forward == "packed" else make_padded
        return make(pieces, self.backbone.device)

    def _try(self, pieces: Sequence[PromptGroup]) -> tuple[Features, Tensor] | None:
        """Features of one batch and their feature rows; None when memory ran out.

        NOTE: returns before anything is done about it: while the error is held, so is the memory of
        the frames it came through.
        """
        try:
            batch = self._make(pieces)
            return forward_batch(self.backbone, batch, self.spec), batch.rows.cpu()
        except RuntimeError as error:
            if not _is_out_of_memory(error) or self._is_single(pieces):
                raise
            if not self.may_halve:
                raise ValueError(
                    f"out of memory with featurize.token_budget {self.token_budget}, which ranks"
                    " that share a backbone cannot change on their own; set it to"
                    f" {self.token_budget // 2} and run the same command again"
                ) from error
        return None

    @staticmethod
    def _is_single(pieces: Sequence[PromptGroup]) -> bool:
        return len(pieces) == 1 and len(pieces[0].outputs) == 1

    def _halve(self) -> None:
        self.token_budget = max(1, self.token_budget // 2)
        logger.warning("out of memory: featurize.token_budget is now %d", self.token_budget)
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()


def choose_forward(
    backbone: Backbone, spec: FeatureSpec, groups: Sequence[PromptGroup], dtype: torch.dtype
) -> Choice:
    """Compares the packed forward with the plain one on real samples.

    The samples are those of the longest sequence among `groups`, so that a sliding window shows,
    beside a second prompt, so that a leak between prompts shows.
    """
    probe = probe_groups(groups)
    try:
        packed = _features(backbone, spec, [make_pack(probe, backbone.device)])
    except (UnsupportedAttention, TypeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        reason = f"shared prompts do not fit this model: {first_line}"
        return Choice(forward="padded", reason=reason)
    singles = [single for batch in plan_padded(probe, 1) for single in batch]
    plain = _features(backbone, spec, [make_padded([one], backbone.device) for one in singles])
    difference = max(relative_error(packed[name], plain[name]) for name in plain)
    if difference <= TOLERANCE[dtype]:
        reason = f"shared prompts agree with the plain forward to {difference:.1e}"
        return Choice(forward="packed", reason=reason)
    reason = f"shared prompts differ from the plain forward by {difference:.1e}"
    return Choice(forward="padded", reason=reason)


def probe_groups(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The longest and the shortest output of two prompts, the longest sequence among them."""
    longest = max(groups, key=lambda group: len(group.prompt) + max(map(len, group.outputs)))
    others = [group for group in groups if group is not longest]
    chosen = [longest, *sorted(others, key=lambda group: group.num_tokens)[:1]]
    probe, row = [], 0
    for group in chosen:
        by_length = sorted(group.outputs, key=len)
        outputs = (by_length[-1], *by_length[:-1][:1])
        rows = tuple(range(row, row + len(outputs)))
        probe.append(PromptGroup(prompt=group.prompt, outputs=outputs, rows=rows))
        row += len(outputs)
    return probe


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest over rows of |found - expected| / |expected|; inf where anything is not finite."""
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    norms = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((found - expected).norm(dim=1) / norms).max())


def _features(backbone: Backbone, spec: FeatureSpec, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """All features of some batches by name, ordered by feature row."""
    order = torch.cat([batch.rows.cpu() for batch in batches]).argsort()
    found = [forward_batch(backbone, batch, spec) for batch in batches]
    named = {
        name: torch.cat([features.tensors[name].cpu() for features in found])[order]
        for name in spec.tensor_names
    }
    if spec.likelihood:
        parts = [part.likelihood.cpu() for part in found if part.likelihood is not None]
        named["likelihood"] = torch.cat(parts)[order]
    return named


def _scatter(
    features: Features, rows: Tensor, tensors: dict[str, Tensor], likelihood: Tensor | None
) -> None:
    for name, tensor in features.tensors.items():
        tensors[name][rows] = tensor.cpu()
    if likelihood is not None and features.likelihood is not None:
        likelihood[rows] = features.likelihood.cpu()


def _unique_tokens(pieces: Sequence[PromptGroup], seen: set[tuple[int, ...]]) -> int:
    """Tokens of the pieces with each prompt counted the first time it comes."""
    tokens = 0
    for piece in pieces:
        tokens += sum(map(len, piece.outputs))
        if piece.prompt not in seen:
            seen.add(piece.prompt)
            tokens += len(piece.prompt)
    return tokens


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it; the CPU allocator only a sentence."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
