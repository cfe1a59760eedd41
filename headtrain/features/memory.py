"""Memory for features during training: on the device, or in a mapped file if they do not fit."""

import os
import tempfile
import uuid
import weakref
from pathlib import Path

import torch

from featurize.io.files import TEMPORARY_SUFFIX, available_memory

SHARE = 0.7
"""Share of the free memory that features may take; training itself needs little."""


class FeatureMemory:
    """Allocates matrices of features, in memory as long as there is room.

    A matrix that does not fit is mapped from a file; reading it is the same, but slower. The file
    has no name by the time it is handed out, so it disappears with the process.
    """

    def __init__(
        self, *, device: torch.device, folder: Path | None = None, most_gb: float | None = None
    ) -> None:
        """`folder` holds the files (default: the temporary one); None GB: most of what is free."""
        self.device = device
        self.folder = folder or Path(tempfile.gettempdir())
        self.most_gb = most_gb
        self._held: list[tuple[weakref.ref[torch.Tensor], int]] = []
        self._mapped: list[tuple[weakref.ref[torch.Tensor], int]] = []

    @property
    def num_held(self) -> int:
        """Bytes of the matrices in memory that are still in use."""
        return _num_bytes(self._held)

    @property
    def num_mapped(self) -> int:
        """Bytes of the matrices in files that are still in use."""
        return _num_bytes(self._mapped)

    def allocate(self, num_rows: int, width: int) -> torch.Tensor:
        """Return an uninitialised float32 matrix [rows, width], on the device or mapped on the CPU.

        Raises:
            OSError: neither the memory nor the disk has room for it.
        """
        num_bytes = num_rows * width * torch.float32.itemsize
        if num_bytes > self._room():
            features = self._map(num_bytes).view(num_rows, width)
            self._mapped.append((weakref.ref(features), num_bytes))
        else:
            features = torch.empty(num_rows, width, device=self.device)
            self._held.append((weakref.ref(features), num_bytes))
        return features

    def describe(self) -> str:
        """Say `features: 0.52 GB in memory (cpu), 41.10 GB mapped from files in storage/cache`."""
        held = f"features: {self.num_held / 1e9:.2f} GB in memory ({self.device})"
        if not self.num_mapped:
            return held
        return f"{held}, {self.num_mapped / 1e9:.2f} GB mapped from files in {self.folder}"

    def _room(self) -> float:
        """Number of bytes that may still be taken."""
        if self.most_gb is not None:
            return self.most_gb * 1e9 - self.num_held
        if self.device.type == "cuda":
            return SHARE * torch.cuda.mem_get_info(self.device)[0]
        return SHARE * available_memory()

    def _map(self, num_bytes: int) -> torch.Tensor:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"features.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
        try:
            with path.open("wb") as file:
                # NOTE: writing to a mapping without disk space kills the process.
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
    """Select rows of features, [rows, width], and move them to the device.

    `rows` is on the device of the features. A copy to another device is asynchronous: the host
    reads the next batch meanwhile.
    """
    picked = features.index_select(0, rows)
    if picked.device.type == device.type:
        return picked
    return picked.pin_memory().to(device, non_blocking=True)


def _num_bytes(matrices: list[tuple[weakref.ref[torch.Tensor], int]]) -> int:
    return sum(num_bytes for matrix, num_bytes in matrices if matrix() is not None)
