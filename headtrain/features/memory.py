"""Where features lie while heads are trained: in memory, or in a file where they do not fit."""

import os
import tempfile
import uuid
import weakref
from pathlib import Path

import torch

from featurize.io.files import TEMPORARY_SUFFIX, available_memory

SHARE = 0.7
"""Of the memory that is free, what features may take; training itself needs little."""


class FeatureMemory:
    """Makes room for matrices of features, each in memory as long as that lasts.

    A matrix that does not fit lies in a file that is mapped: it is read alike, but its rows come
    from the disk, or from as much of it as the system holds in its cache. The file has no name any
    more when it is handed out, so that it is gone with the process, however that ends.
    """

    def __init__(
        self, *, device: torch.device, folder: Path | None = None, most_gb: float | None = None
    ) -> None:
        """`folder` is where files may lie [default: the temporary one]; None GB: most of it all."""
        self.device = device
        self.folder = folder or Path(tempfile.gettempdir())
        self.most_gb = most_gb
        self.num_held = 0
        """Bytes of the matrices in memory; those nobody refers to any more do not count."""
        self.num_mapped = 0
        """Bytes of those in files."""

    def allocate(self, num_rows: int, width: int) -> torch.Tensor:
        """A matrix of float32 [rows, width] to be filled: on the device, or on the CPU and mapped.

        Raises:
            OSError: neither the memory nor the disk has room for it.
        """
        num_bytes = num_rows * width * torch.float32.itemsize
        if num_bytes > self._room():
            features = self._map(num_bytes).view(num_rows, width)
            self._count("num_mapped", features, num_bytes)
        else:
            features = torch.empty(num_rows, width, device=self.device)
            self._count("num_held", features, num_bytes)
        return features

    def describe(self) -> str:
        """`features: 0.52 GB in memory (cpu), 41.10 GB mapped from files in storage/cache`."""
        held = f"features: {self.num_held / 1e9:.2f} GB in memory ({self.device})"
        if not self.num_mapped:
            return held
        return f"{held}, {self.num_mapped / 1e9:.2f} GB mapped from files in {self.folder}"

    def _room(self) -> float:
        """Bytes that may still be taken."""
        if self.most_gb is not None:
            return self.most_gb * 1e9 - self.num_held
        if self.device.type == "cuda":
            return SHARE * torch.cuda.mem_get_info(self.device)[0]
        return SHARE * available_memory()

    def _count(self, name: str, features: torch.Tensor, num_bytes: int) -> None:
        """Count a matrix for as long as it is there."""

        def add(change: int) -> None:
            setattr(self, name, getattr(self, name) + change)

        add(num_bytes)
        weakref.finalize(features, add, -num_bytes)

    def _map(self, num_bytes: int) -> torch.Tensor:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"features.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
        try:
            with path.open("wb") as file:
                # NOTE: writing to a map for which the disk has no room kills the process.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            size = num_bytes // torch.float32.itemsize
            return torch.from_file(str(path), shared=True, size=size, dtype=torch.float32)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: {num_bytes / 1e9:.2f} GB of features fit neither into memory"
                " (training.max_feature_memory_gb) nor here",
                str(self.folder),
            ) from error
        finally:
            path.unlink(missing_ok=True)


def gather(features: torch.Tensor, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Rows of features, [rows, width], on the device; `rows` lies where the features lie."""
    picked = features.index_select(0, rows)
    if picked.device.type == device.type:
        return picked
    # The host goes on at once: it reads the rows of the next batch while the device has this one.
    return picked.pin_memory().to(device, non_blocking=True)
