"""Brings scanned samples into one order and names their content, whatever order they came in."""

from hashlib import blake2b

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

DICTIONARY_COLUMNS = ("problem_id", "language", "difficulty", "source")
# The columns of the index; what the scan has beyond them is used up here.
INDEX_COLUMNS = (
    "task_id", "problem_id", "is_correct", "language", "difficulty", "source",
    "file", "line", "offset", "length", "part",
    "prompt_key", "output_key", "prompt_chars", "output_chars",
)  # fmt: skip
_SORT_KEYS = (
    "prompt_key", "output_key", "task_id",
    # Rows that default ids cannot tell apart; without these the suffixes would follow the file.
    "is_correct", "problem_id", "language", "difficulty", "source",
)  # fmt: skip


def to_canonical(samples: pa.Table) -> pa.Table:
    """Sort scanned samples by content and number the default ids of identical ones."""
    samples = with_sorted_dictionaries(samples)
    keys = pa.table({name: _sortable(samples[name]) for name in _SORT_KEYS})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _SORT_KEYS])
    samples = samples.take(order).combine_chunks()
    task_ids = _number_repeats(samples["task_id"], samples["has_default_id"])
    samples = samples.set_column(samples.schema.get_field_index("task_id"), "task_id", task_ids)
    return samples.select(list(INDEX_COLUMNS))


def with_sorted_dictionaries(samples: pa.Table) -> pa.Table:
    """Rebuild the dictionary columns with the values in use, sorted."""
    for name in DICTIONARY_COLUMNS:
        position = samples.schema.get_field_index(name)
        encoded = samples[name].cast(pa.string()).combine_chunks().dictionary_encode()
        order = pc.sort_indices(encoded.dictionary)
        ranks = np.empty(len(order), np.int32)
        ranks[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
        codes = pc.take(pa.array(ranks), encoded.indices)  # a null stays null
        column = pa.DictionaryArray.from_arrays(codes, encoded.dictionary.take(order))
        samples = samples.set_column(position, name, column)
    return samples


def content_fingerprint(samples: pa.Table) -> str:
    """Hash what canonical samples say; where they lie in the files is left out."""
    digest = blake2b(b"critic samples 1", digest_size=16)
    for name in ("task_id", "problem_id", "is_correct", "language", "difficulty", "source"):
        column = samples[name].combine_chunks()
        if name in DICTIONARY_COLUMNS:
            digest.update(orjson.dumps([name, len(column), column.dictionary.to_pylist()]))
            digest.update(_codes(column))
        elif name == "task_id":
            digest.update(pc.binary_length(column).to_numpy().tobytes())
            digest.update("".join(column.to_pylist()).encode())
        else:
            digest.update(_codes(column.cast(pa.int8())))
    for name in ("prompt_key", "output_key"):
        digest.update(b"".join(samples[name].to_pylist()))
    return digest.hexdigest()


def repeated_task_ids(samples: pa.Table) -> list[tuple[int, int]]:
    """Return (first, later) rows of every task id that is used again, by place in the files."""
    if pc.count_distinct(samples["task_id"]).as_py() == samples.num_rows:
        return []
    keys = ("task_id", "file", "line", "part")
    order = pc.sort_indices(samples, sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    task_ids = samples["task_id"].take(order).to_numpy(zero_copy_only=False)
    starts = np.append(True, task_ids[1:] != task_ids[:-1])
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    pairs = [(int(a), int(b)) for a, b in zip(first[~starts], order[~starts], strict=True)]
    files, lines = samples["file"].to_numpy(), samples["line"].to_numpy()
    return sorted(pairs, key=lambda pair: (files[pair[1]], lines[pair[1]]))


def _number_repeats(task_ids: pa.ChunkedArray, has_default_id: pa.ChunkedArray) -> pa.Array:
    """Append -2, -3, ... to default ids that come again; equal ones are neighbours."""
    is_default = has_default_id.to_numpy()
    same = pc.equal(task_ids[1:], task_ids[:-1]).to_numpy(zero_copy_only=False).astype(bool)
    repeats = np.append(False, same & is_default[1:] & is_default[:-1])
    if not repeats.any():
        return task_ids.combine_chunks()
    positions = np.arange(len(repeats))
    ranks = positions - np.maximum.accumulate(np.where(repeats, 0, positions)) + 1
    again = pa.array([f"{task_ids[int(row)]}-{ranks[row]}" for row in positions[repeats]])
    return pc.replace_with_mask(task_ids.combine_chunks(), pa.array(repeats), again)


def _sortable(column: pa.ChunkedArray) -> pa.Array:
    """Sorted dictionaries sort by their codes."""
    combined = column.combine_chunks()
    if pa.types.is_dictionary(combined.type):
        return combined.indices
    return combined.cast(pa.int8()) if pa.types.is_boolean(combined.type) else combined


def _codes(column: pa.Array) -> bytes:
    indices = column.indices if pa.types.is_dictionary(column.type) else column
    return np.asarray(indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32).tobytes()
