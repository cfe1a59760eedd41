"""Token counts of every sample, computed once per dataset and tokenizer and then cached."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from featurize.data.encoder import SampleEncoder
from featurize.data.formats import prompt_of
from featurize.data.index import DatasetIndex
from featurize.data.prompt import template_digest
from featurize.data.table import open_table, write_table
from featurize.io.files import digest
from featurize.settings import PromptSettings

ROWS_AT_ONCE = 4096

NO_LIMIT = 1 << 30

_VERSION = 2  # of the counts: since 2, special tokens in texts are split

PROMPT_TOKENS, OUTPUT_TOKENS = "whole_prompt_tokens", "whole_output_tokens"
"""Columns of an index that has token counts."""

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenCounts:
    """Tokens of every row of an index, before truncation."""

    prompts: Int32s  # of the rendered prompt, [rows]
    outputs: Int32s  # [rows]

    def cut(self, max_length: int, prompt_limit: int) -> "TokenCounts":
        """Count the tokens that are left after truncation."""
        prompts = np.minimum(self.prompts, prompt_limit)
        return TokenCounts(prompts=prompts, outputs=np.minimum(self.outputs, max_length - prompts))


def count_tokens(
    index: DatasetIndex,
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int, int], None] | None = None,
    prompt: PromptSettings = PromptSettings(),  # noqa: B008 (frozen)
) -> TokenCounts:
    """Tokenize every output of a dataset, and every prompt once."""
    encoder = SampleEncoder(prompt, tokenizer, max_length=NO_LIMIT, max_prompt_length=NO_LIMIT - 1)
    counts = TokenCounts(
        prompts=np.zeros(len(index), np.int32), outputs=np.zeros(len(index), np.int32)
    )
    with tokenizer_threads():
        for start in range(0, len(index), ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, len(index))
            samples = index.read(np.arange(start, stop))
            groups = [
                (one, [sample.output for sample in same])
                for one, same in groupby(samples, prompt_of)  # the index sorts by prompt
            ]
            counts.prompts[start:stop], counts.outputs[start:stop] = encoder.count(groups)
            if progress is not None:
                progress(stop, len(index))
    return counts


def counts_path(
    cache_dir: Path,
    index: DatasetIndex,
    tokenizer_digest: str,
    prompt: Mapping[str, Any] | None = None,
) -> Path:
    """Return the path of the cached counts of a dataset, a tokenizer and a `Recipe.prompt`."""
    parts = [_VERSION, index.content_fingerprint, tokenizer_digest, template_digest()]
    key = digest([*parts, *([prompt] if prompt else [])])
    return cache_dir / "tokens" / f"tokens-{key}.arrow"


def write_counts(path: Path, counts: TokenCounts) -> None:
    """Write counts for later runs."""
    write_table(path, pa.table({"prompts": counts.prompts, "outputs": counts.outputs}))


def find_counts(path: Path, index: DatasetIndex) -> TokenCounts | None:
    """Read the counts of an earlier run; None if there are none or they do not fit the index."""
    table = open_table(path)
    names = ["prompts", "outputs"]
    if table is None or table.num_rows != len(index) or table.column_names != names:
        return None
    return TokenCounts(**{name: table[name].to_numpy() for name in names})


def with_counts(
    index: DatasetIndex,
    cache_dir: Path,
    tokenizer_digest: str,
    prompt: Mapping[str, Any] | None = None,
) -> DatasetIndex:
    """Add the cached counts as columns; return the index unchanged if there are none."""
    counts = find_counts(counts_path(cache_dir, index, tokenizer_digest, prompt), index)
    if counts is None:
        return index
    table = index.table.append_column(PROMPT_TOKENS, pa.array(counts.prompts))
    return replace(index, table=table.append_column(OUTPUT_TOKENS, pa.array(counts.outputs)))


def counts_of(table: pa.Table) -> TokenCounts | None:
    """Return the counts among an index's columns; None if it has none."""
    if PROMPT_TOKENS not in table.column_names:
        return None
    return TokenCounts(
        prompts=table[PROMPT_TOKENS].to_numpy(), outputs=table[OUTPUT_TOKENS].to_numpy()
    )


def unique_tokens(table: pa.Table, cut: TokenCounts) -> int:
    """Count the tokens of every distinct prompt and every distinct output of a prompt."""
    is_first, is_new = first_of_prompts(table), _is_new(table)
    return int(cut.prompts[is_first].sum(dtype=np.int64) + cut.outputs[is_new].sum(dtype=np.int64))


def num_distinct(table: pa.Table) -> int:
    """Count the distinct outputs of every prompt."""
    return int(_is_new(table).sum())


def _is_new(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether a row is the first of its prompt and output, [rows]."""
    return first_of_prompts(table) | _differs(table["output_key"])


def first_of_prompts(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether a row is the first of its prompt, [rows]; rows of a prompt are neighbours."""
    return _differs(table["prompt_key"])


def _differs(keys: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether a row's key differs from that of the row before, [rows]."""
    keys = keys.combine_chunks()
    is_new = np.ones(len(keys), bool)
    is_new[1:] = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return is_new


@contextmanager
def tokenizer_threads() -> Iterator[None]:
    """Let the tokenizer use threads; nothing may fork meanwhile."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
