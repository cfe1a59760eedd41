"""Sizes of texts before they are tokenised, by their characters, and the units cut by them."""

import numpy as np
import pyarrow.compute as pc

from featurize.data.index import DatasetIndex
from featurize.data.prompt import TEMPLATE
from featurize.model.packing import plan_units
from featurize.settings import DatasetSettings

CHARS_PER_TOKEN = 3
"""For sizing units before anything is tokenised; programs run from 2.5 to 3.5."""


def group_starts(index: DatasetIndex) -> np.ndarray:
    """Rows at which a new prompt begins, and the number of rows: int64 [prompts + 1]."""
    keys = index.table["prompt_key"].combine_chunks()
    is_new = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(index)]]).astype(np.int64)


def cut_units(index: DatasetIndex, unit_tokens: int) -> list[tuple[int, int]]:
    """Rows [start, stop) of each unit: consecutive whole problems of about `unit_tokens`."""
    starts = group_starts(index)
    sizes = group_chars(index, starts) // CHARS_PER_TOKEN
    return [
        (int(starts[first]), int(starts[last]))
        for first, last in plan_units(sizes.tolist(), unit_tokens)
    ]


def group_chars(
    index: DatasetIndex, starts: np.ndarray, cut: DatasetSettings | None = None
) -> np.ndarray:
    """Characters of each prompt and of all its distinct outputs: int64 [prompts].

    `cut` leaves out what is about to be truncated. Units are cut by the whole texts, as in
    earlier versions, whose stores are finished with them.
    """
    outputs = index.table["output_chars"].to_numpy().astype(np.int64)
    prompts = index.table["prompt_chars"].to_numpy().astype(np.int64)[starts[:-1]] + len(TEMPLATE)
    if cut is not None:
        prompts = np.minimum(prompts, cut.prompt_limit * CHARS_PER_TOKEN)
        room = cut.max_length * CHARS_PER_TOKEN - prompts
        outputs = np.minimum(outputs, np.repeat(room, np.diff(starts)))
    keys = index.table["output_key"].combine_chunks()
    # Rows of one prompt are sorted by output, so duplicates are adjacent.
    is_repeat = np.zeros(len(index), bool)
    is_repeat[1:] = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    is_repeat[starts[:-1]] = False
    totals = np.add.reduceat(np.where(is_repeat, 0, outputs), starts[:-1])
    return np.asarray(totals + prompts)
