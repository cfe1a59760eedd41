"""The texts of a split's samples, where the dataset is still there to read them from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurize.data.records import Sample

ReadTexts = Callable[[Sequence[str]], list[Sample]]
"""From task ids to samples, in the order asked for."""


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Reads the texts of samples by their task ids, or says why it cannot."""

    read: ReadTexts | None = None

    why_not: str = "no dataset was given"
    """Shown where something needs texts and `read` is None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitTexts:
    """The texts of a split, by the places of its labelled samples."""

    task_ids: pa.Array | pa.ChunkedArray
    """[samples]"""

    source: TextSource

    def __len__(self) -> int:
        return len(self.task_ids)

    @property
    def are_there(self) -> bool:
        """Whether there is anything to read."""
        return self.source.read is not None

    def read(self, places: npt.NDArray[np.integer]) -> list[Sample]:
        """The samples at these places."""
        assert self.source.read is not None, self.source.why_not
        return self.source.read(self.task_ids.take(pa.array(places)).to_pylist())

    def read_outputs(self, places: npt.NDArray[np.integer]) -> list[str]:
        """Their outputs alone."""
        return [sample.output for sample in self.read(places)]
