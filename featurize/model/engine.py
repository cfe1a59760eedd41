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
from featurize.model.batch import Batch, make_pack, make_padded
from featurize.model.decoder import split_by_length
from featurize.model.forward import LIKELIHOOD, Features, FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_packs, plan_padded

logger = logging.getLogger(__name__)

Forward = Literal["packed", "padded"]
Pass = tuple[Sequence[PromptGroup], Batch]
"""One forward pass: its prompts with their outputs, and its batch in host memory."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Prompts whose features are wanted, planned into forward passes by `Engine.prepare`."""

    groups: Sequence[PromptGroup]
    num_rows: int
    passes: Sequence[Pass]
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

        When memory runs out, the token budget is halved and the remaining batches are replanned.

        Args:
            groups: prompts with their outputs and feature rows.
            num_rows: of the result.
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
        passes = self._plan(groups, budget)
        return Work(groups=groups, num_rows=num_rows, passes=passes, token_budget=budget)

    def stream(
        self, works: Iterable[Work], on_tokens: Callable[[int], None] | None = None
    ) -> Iterator[Features]:
        """Compute the features of each work in turn, as `run` does.

        The next batch is started before the last one is read, across works too.
        """
        depth = self.depth or (2 if self.backbone.device.type == "cuda" else 1)
        started: deque[_Started] = deque()
        for one in (one for work in works for one in self._start_all(work)):
            started.append(one)
            num_open = sum(one.pending is not None for one in started)
            while started and (num_open >= depth or started[0].pending is None):
                num_open -= started[0].pending is not None
                yield from started.popleft().finish(on_tokens)
        for one in started:
            yield from one.finish(on_tokens)

    def _start_all(self, work: Work) -> Iterator["_Started"]:
        """Start the batches of a work, largest first, so that memory runs out early if it does."""
        result, seen = self._make_result(work.num_rows), set[tuple[int, ...]]()
        is_current = work.token_budget == self.token_budget
        queue = deque(work.passes if is_current else self._plan(work.groups, self.token_budget))
        while queue:
            groups, batch = queue.popleft()
            pending = self._try(groups, batch)
            if pending is not None:
                yield _Started(result, groups, batch.rows, pending, seen)
                continue
            self._halve()
            rest = [*groups, *(group for later, _ in queue for group in later)]
            queue = deque(self._plan(rest, self.token_budget))
        yield _Started(result)

    def _make_result(self, num_rows: int) -> dict[str, Tensor]:
        """Make tensors for the features of some rows, by name."""
        widths = self.spec.widths(self.backbone.hidden_size)
        if self.spec.columns:
            widths |= {LIKELIHOOD: len(self.spec.columns)}
        return {name: torch.empty((num_rows, width)) for name, width in widths.items()}

    def _plan(self, groups: Sequence[PromptGroup], token_budget: int) -> list[Pass]:
        """Plan batches under the budget and build them, largest first."""
        is_packed = self.forward == "packed"
        plan, make = (plan_packs, make_pack) if is_packed else (plan_padded, make_padded)
        pinned = self.backbone.device.type == "cuda"
        passes = [
            (pieces, make(pieces, pinned=pinned))
            for part in split_by_length(groups, self.backbone.lengths)
            for pieces in plan(part, token_budget)
        ]
        return sorted(passes, key=lambda one: -one[1].num_tokens)

    def _try(self, groups: Sequence[PromptGroup], batch: Batch) -> "Pending | None":
        """Start one batch and the copy of its features; None if memory ran out.

        NOTE: the caller frees memory after this has returned: as long as the error is referenced,
        so are the tensors in the frames of its traceback.
        """
        try:
            on_device = batch.to(self.backbone.device)
            return start_copy(forward_batch(self.backbone, on_device, self.spec))
        except UnsupportedAttention as error:
            raise CriticError(
                f"featurize.forward is packed, but this model cannot share prompts: {error}; set it"
                " to auto or padded"
            ) from error
        except RuntimeError as error:
            is_single = len(groups) == 1 and len(groups[0].outputs) == 1
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


@dataclass(frozen=True)
class _Started:
    """A batch on the device, or the end of a work, which follows its batches."""

    result: dict[str, Tensor]  # features of the work, filled batch by batch
    groups: Sequence[PromptGroup] = ()
    rows: Tensor | None = None
    pending: "Pending | None" = None  # None: the end
    seen: set[tuple[int, ...]] = field(default_factory=set)  # prompts of the work counted so far

    def finish(self, on_tokens: Callable[[int], None] | None) -> Iterator[Features]:
        """Read the batch; give the features of the work at its end."""
        if self.pending is None:
            yield Features.of(self.result)
            return
        for name, tensor in self.pending.wait().items():
            self.result[name][self.rows] = tensor
        if on_tokens is not None:
            on_tokens(_unique_tokens(self.groups, self.seen))


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Features on their way to host memory."""

    flat: Tensor  # float32 [n]: all tensors one after another, in host memory once `done`
    shapes: dict[str, torch.Size]  # by name, in their order
    done: torch.cuda.Event | None  # None: the copy is finished

    def wait(self) -> dict[str, Tensor]:
        """Wait for the copy and return the tensors."""
        if self.done is not None:
            self.done.synchronize()
        parts = self.flat.split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}


def start_copy(features: Features) -> Pending:
    """Start one copy of all features of a batch to host memory, which need not wait for it."""
    named = features.named()
    flat = torch.cat([tensor.flatten() for tensor in named.values()])
    done = None
    if flat.device.type == "cuda":
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        host.copy_(flat, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # a waiting host leaves its core to the reader
        done.record()
        flat = host
    shapes = {name: tensor.shape for name, tensor in named.items()}
    return Pending(flat=flat.cpu(), shapes=shapes, done=done)


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
