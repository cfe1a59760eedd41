"""Computes features with the fastest forward pass that agrees with the plain one.

The packed forward computes a prompt once for all its outputs; the padded (plain) forward computes
every (prompt, output) sequence on its own.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from featurize.errors import CriticError
from featurize.model.attention import UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import HostBatch, host_pack, host_padded
from featurize.model.forward import Features, FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_packs, plan_padded
from featurize.model.rope import split_by_length
from featurize.model.transfer import Pending, start_copy

logger = logging.getLogger(__name__)

Forward = Literal["packed", "padded"]


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
