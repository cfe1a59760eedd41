"""The texts of a split's samples, if the dataset is still there, and how to show them safely."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurize.data.records import Sample

ReadTexts = Callable[[Sequence[str]], list[Sample]]
"""From task ids to samples, in the same order."""

_KEPT = "\n\t"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A reader of samples by task id, or the reason why there is none."""

    read: ReadTexts | None = None

    why_not: str = "no dataset was given"
    """Shown in place of what needs texts if `read` is None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitTexts:
    """The texts of the labelled samples of a split."""

    task_ids: pa.Array | pa.ChunkedArray
    """[samples]"""

    source: TextSource

    def __len__(self) -> int:
        return len(self.task_ids)

    @property
    def are_there(self) -> bool:
        """Whether the texts can be read."""
        return self.source.read is not None

    def read(self, places: npt.NDArray[np.integer]) -> list[Sample]:
        """Read the samples at these indices."""
        assert self.source.read is not None, self.source.why_not
        return self.source.read(self.task_ids.take(pa.array(places)).to_pylist())

    def read_outputs(self, places: npt.NDArray[np.integer]) -> list[str]:
        """Read the outputs of the samples at these indices."""
        return [sample.output for sample in self.read(places)]


def to_visible(text: str) -> str:
    """Replace control and formatting characters other than newlines and tabs.

    Escape sequences could overwrite a terminal; direction marks and zero-width characters could
    make a program look like another one.
    """
    text = text.replace("\r\n", "\n")
    return "".join(
        character
        if character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
        else _REPLACEMENT
        for character in text
    )
