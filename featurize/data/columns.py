"""Brings scanned samples into one order and names their content, whatever order they came in."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128

from featurize.data.keys import task_id_checks

DICTIONARY_COLUMNS = ("problem_id", "language", "difficulty", "source")
# The columns of the index; what the scan has beyond them is used up here.
INDEX_COLUMNS = (
    "task_id", "problem_id", "is_correct", "language", "difficulty", "source",
    "file", "line", "offset", "length", "part",
    "prompt_key", "output_key", "prompt_chars", "output_chars",
)  # fmt: skip
_LEADING_KEYS = ("prompt_key", "output_key")
_SORT_KEYS = (
    *_LEADING_KEYS, "task_id",
    # Rows that default ids cannot tell apart; without these the suffixes would follow the file.
    "is_correct", "problem_id", "language", "difficulty", "source",
)  # fmt: skip


def to_canonical(samples: pa.Table) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Sort scanned samples by content and number the default ids of identical ones.

    Returns the table and the (first, later) rows of every task id that is used again.
    """
    columns = {name: samples[name] for name in _LEADING_KEYS}
    columns |= {name: samples[name] for name in samples.column_names}
    del samples  # each column gives way to its successor, where nobody else holds the table
    with ThreadPoolExecutor(2) as pool:
        whole = {name: pool.submit(_in_one, columns.pop(name)) for name in list(columns)}
        leading = _leading_order(*(whole[name].result() for name in _LEADING_KEYS))
        columns = {name: whole.pop(name).result() for name in list(whole)}
        order = pa.array(_content_order(leading, columns))
        taken = {name: pool.submit(columns.pop(name).take, order) for name in list(columns)}
        columns = {name: column.result() for name, column in taken.items()}
    checks = columns["task_id_check"].to_numpy().copy()
    again = _repeats(columns["task_id"], columns["has_default_id"])
    if again.any():
        columns["task_id"], checks[again] = _number_repeats(columns["task_id"], again)
    table = pa.table({name: columns[name] for name in INDEX_COLUMNS})
    return table, _used_again(table, checks)


def with_sorted_dictionaries(samples: pa.Table) -> pa.Table:
    """Rebuild the dictionary columns with the values in use, sorted."""
    for name in DICTIONARY_COLUMNS:
        position = samples.schema.get_field_index(name)
        samples = samples.set_column(position, name, _in_one(samples[name]))
    return samples


def content_fingerprint(samples: pa.Table) -> str:
    """Hash what canonical samples say; where they lie in the files is left out."""
    digest = xxh3_128(b"critic samples 2")
    for name in ("task_id", "problem_id", "is_correct", "language", "difficulty", "source"):
        column = samples[name].combine_chunks()
        if name in DICTIONARY_COLUMNS:
            digest.update(orjson.dumps([name, len(column), column.dictionary.to_pylist()]))
            digest.update(_codes(column).data)
        elif name == "task_id":
            digest.update(pc.binary_length(column).to_numpy())
            digest.update(_text_bytes(column))
        else:
            digest.update(_codes(column.cast(pa.int8())).data)
    for name in ("prompt_key", "output_key"):
        digest.update(_key_bytes(samples[name].combine_chunks()).data)
    return digest.hexdigest()


def _in_one(column: pa.ChunkedArray) -> pa.Array:
    """Put chunks together; a dictionary is left with the values in use, sorted."""
    whole = column.combine_chunks()
    return _with_sorted_values(whole) if pa.types.is_dictionary(whole.type) else whole


def _with_sorted_values(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return the same values; a null stays null."""
    values = column.dictionary
    used = pc.unique(column.indices).drop_null()
    order = used.take(pc.sort_indices(values.take(used)))
    ranks = np.zeros(len(values), np.int32)
    ranks[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    indices = pa.array(ranks).take(column.indices)
    return pa.DictionaryArray.from_arrays(indices, values.take(order))


def _leading_order(prompt_keys: pa.Array, output_keys: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by their leading keys alone.

    Both are hashes, so that one number, of the prompt's rank and the leading bits of the output's
    key, orders nearly all rows. Returns int64 [rows] and the places in it of rows whose numbers
    are equal, int64 [places].
    """
    prompts = prompt_keys.dictionary_encode()
    ranks = np.empty(len(prompts.dictionary), np.uint64)
    ranks[pc.sort_indices(prompts.dictionary).to_numpy()] = np.arange(len(ranks), dtype=np.uint64)
    bits = np.uint64(len(ranks).bit_length())
    outputs = _key_bytes(output_keys)[:, :8].copy().view(">u8")[:, 0]
    numbers = ranks[prompts.indices.to_numpy()] << (np.uint64(64) - bits) | outputs >> bits
    order = np.argsort(numbers)
    numbers = numbers[order]
    is_same = numbers[1:] == numbers[:-1]
    return order, np.flatnonzero(np.append(is_same, False) | np.append(False, is_same))


def _content_order(
    leading: tuple[np.ndarray, np.ndarray], columns: Mapping[str, pa.Array]
) -> np.ndarray:
    """Return the rows in the order of _SORT_KEYS, from `_leading_order`: int64 [rows]."""
    order, places = leading
    rows = np.sort(order[places])
    keys = pa.table({name: _sortable(columns[name].take(pa.array(rows))) for name in _SORT_KEYS})
    among = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _SORT_KEYS])
    order[places] = rows[among.to_numpy()]
    return order


def _repeats(task_ids: pa.Array, has_default_id: pa.Array) -> np.ndarray:
    """Whether a default id is that of the row before: bool [rows]; equal ones are neighbours."""
    is_default = has_default_id.to_numpy(zero_copy_only=False)
    is_same = pc.equal(task_ids[1:], task_ids[:-1]).to_numpy(zero_copy_only=False).astype(bool)
    return np.append(False, is_same & is_default[1:] & is_default[:-1])


def _number_repeats(task_ids: pa.Array, again: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Append -2, -3, ... to ids that come again; returns all ids and the checks of these."""
    positions = np.arange(len(again))
    ranks = positions - np.maximum.accumulate(np.where(again, 0, positions)) + 1
    numbered = [f"{task_ids[int(row)]}-{ranks[row]}" for row in positions[again]]
    ids = pc.replace_with_mask(task_ids, pa.array(again), pa.array(numbered))
    return ids, task_id_checks([task_id.encode() for task_id in numbered])


def _used_again(samples: pa.Table, checks: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, later) rows of every task id that is used again, by place in the files."""
    # NOTE: a hash table of millions of strings takes ten times as long as sorting these numbers.
    in_order = np.sort(checks)
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(again):
        return []
    suspects = np.flatnonzero(np.isin(checks, again))
    keys = ("task_id", "file", "line", "part")
    table = samples.select(list(keys)).take(pa.array(suspects))
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    rows = suspects[order]
    task_ids = table["task_id"].take(pa.array(order)).to_numpy(zero_copy_only=False)
    starts = np.append(True, task_ids[1:] != task_ids[:-1])
    first = rows[np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))]
    pairs = [(int(a), int(b)) for a, b in zip(first[~starts], rows[~starts], strict=True)]
    files, lines = samples["file"].to_numpy(), samples["line"].to_numpy()
    return sorted(pairs, key=lambda pair: (files[pair[1]], lines[pair[1]]))


def _sortable(column: pa.Array) -> pa.Array:
    """Sorted dictionaries sort by their codes."""
    if pa.types.is_dictionary(column.type):
        return column.indices
    return column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column


def _codes(column: pa.Array) -> np.ndarray:
    """Return the codes of a column, -1 for null: int32 [rows]."""
    indices = column.indices if pa.types.is_dictionary(column.type) else column
    return np.asarray(indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)


def _key_bytes(keys: pa.Array) -> np.ndarray:
    """Return keys without nulls as uint8 [rows, 16]."""
    content = np.frombuffer(keys.buffers()[1] or b"", np.uint8)
    return content[16 * keys.offset :][: 16 * len(keys)].reshape(-1, 16)


def _text_bytes(column: pa.StringArray) -> memoryview:
    """Return the texts of a column without nulls, joined."""
    if not len(column):
        return memoryview(b"")  # no rows, no buffers
    _, starts, texts = column.buffers()
    places = np.frombuffer(starts, np.int32)[column.offset :]
    return memoryview(texts)[places[0] : places[len(column)]]
