"""Copies the features of a batch to host memory: one copy, which the host need not wait for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featurize.model.forward import Features


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Features on their way to host memory."""

    flat: Tensor  # float32 [n]: all tensors one after another, in host memory once `done`
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    num_tensors: int  # the others, at most one, are the likelihood
    done: torch.cuda.Event | None  # None: the copy is finished

    def wait(self) -> Features:
        """Wait for the copy and return the features."""
        if self.done is not None:
            self.done.synchronize()
        sizes = [rows * width for rows, width in self.shapes]
        parts = [
            part.view(shape)
            for part, shape in zip(self.flat.split(sizes), self.shapes, strict=True)
        ]
        tensors = dict(zip(self.names, parts[: self.num_tensors], strict=True))
        likelihood = parts[-1] if len(parts) > self.num_tensors else None
        return Features(tensors=tensors, likelihood=likelihood)


def start_copy(features: Features) -> Pending:
    """Start the copy of the features of a batch to host memory."""
    tensors: Sequence[Tensor] = [*features.tensors.values()]
    if features.likelihood is not None:
        tensors = [*tensors, features.likelihood]
    flat, done = _to_host(torch.cat([tensor.flatten() for tensor in tensors]))
    return Pending(
        flat=flat,
        names=tuple(features.tensors),
        shapes=tuple((tensor.shape[0], tensor.shape[1]) for tensor in tensors),
        num_tensors=len(features.tensors),
        done=done,
    )


def _to_host(flat: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if flat.device.type != "cuda":
        return flat.cpu(), None
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # a waiting host leaves its core to the reader
    done.record()
    return host, done
