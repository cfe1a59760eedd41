"""The table of a dataset's samples: its columns, the order of its rows, and its fingerprint."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest, xxh3_128

from featurize.io.files import atomic_path

_CATEGORY = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "task_id": pa.string(),
        "problem_id": _CATEGORY,
        "is_correct": pa.bool_(),
        "language": _CATEGORY,
        "difficulty": _CATEGORY,
        "source": _CATEGORY,
        "file": pa.int32(),  # number of the file
        "line": pa.int32(),  # from 1
        "offset": pa.int64(),  # of the line, in bytes
        "length": pa.int32(),
        "part": pa.int8(),  # 0: a plain row, 1 and 2: chosen and rejected of a preference
        "prompt_key": pa.binary(16),
        "output_key": pa.binary(16),
        "prompt_chars": pa.int32(),
        "output_chars": pa.int32(),
        "author": _CATEGORY,  # only if any sample has one
        "has_default_id": pa.bool_(),  # only before `sort_by_content`
    }
)
"""Columns of the table, a row per sample."""

_ALIASES = {
    "python": "python3", "py": "python3", "py3": "python3", "py2": "python2",
    "c++": "cpp", "cxx": "cpp", "cc": "cpp", "c#": "csharp", "cs": "csharp", "c-sharp": "csharp",
    "js": "javascript", "ts": "typescript", "golang": "go", "rs": "rust", "rb": "ruby",
    "kt": "kotlin", "sh": "bash", "shell": "bash", "hs": "haskell", "jl": "julia",
}  # fmt: skip

_RESPELT = b"respelt_languages"  # key of the table's metadata
_SORT_KEYS = (
    "prompt_key", "output_key", "task_id",
    # They order rows with equal default ids; without them the suffixes would follow the files.
    "is_correct", "problem_id", "language", "difficulty", "source", "author",
)  # fmt: skip
_HASHED = (
    "task_id", "problem_id", "is_correct", "language", "difficulty", "source", "author",
    "prompt_key", "output_key",
)  # fmt: skip
logger = logging.getLogger(__name__)


def sort_by_content(chunks: list[pa.Table]) -> pa.Table:
    """Join scanned samples, sort them and number equal default ids; empties `chunks`."""
    columns = dict(zip(SCHEMA.names, pa.concat_tables(chunks).columns, strict=True))
    chunks.clear()  # each column is freed when its successor is made: no table is held twice
    for name in columns:
        columns[name] = _in_one(columns[name])
    columns["language"], respelt = _in_one_spelling(columns["language"])
    keys = pa.table({name: _sortable(columns[name]) for name in _SORT_KEYS})
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _SORT_KEYS])
    del keys
    for name in columns:
        columns[name] = columns[name].take(order)
        pa.default_memory_pool().release_unused()
    columns["task_id"] = _number_repeats(columns["task_id"], columns.pop("has_default_id"))
    if columns["author"].null_count == len(order):
        del columns["author"]
    return pa.table(columns, metadata={_RESPELT: orjson.dumps(respelt)})


def respelt_languages(table: pa.Table) -> dict[str, tuple[str, int]]:
    """Return each language that was spelt another way, its spelling now, and its samples."""
    found: dict[str, tuple[str, int]] = orjson.loads(table.schema.metadata.get(_RESPELT, b"{}"))
    return found


def with_sorted_dictionaries(table: pa.Table) -> pa.Table:
    """Rebuild the dictionary columns with only the values in use, sorted."""
    columns = {name: _in_one(table[name]) for name in table.column_names}
    return pa.table(columns, metadata=table.schema.metadata)


def content_fingerprint(table: pa.Table) -> str:
    """Hash the content of sorted samples; their files and lines are left out."""
    digest = xxh3_128(b"critic samples 2")
    for name in filter(set(table.column_names).__contains__, _HASHED):
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            digest.update(orjson.dumps([name, len(column), column.dictionary.to_pylist()]))
            digest.update(_codes(column.indices))
        elif pa.types.is_boolean(column.type):
            digest.update(_codes(column.cast(pa.int8())))
        else:
            if pa.types.is_string(column.type):
                digest.update(pc.binary_length(column).to_numpy())
            digest.update(_joined(column))
    return digest.hexdigest()


def repeated_ids(table: pa.Table) -> list[tuple[int, int]]:
    """Return (first, later) rows of every task_id that is used again, in the order of the files."""
    # NOTE: hashes first, because a dictionary of millions of ids takes half a gigabyte.
    hashes = np.fromiter(_hashes_of_ids(table), np.uint64, count=len(table))
    in_order = np.sort(hashes)
    rows = np.flatnonzero(np.isin(hashes, in_order[1:][in_order[1:] == in_order[:-1]]))
    if not len(rows):
        return []
    codes = table["task_id"].take(rows).combine_chunks().dictionary_encode().indices.to_numpy()
    places = [table[name].to_numpy()[rows] for name in ("part", "line", "file")]
    firsts: dict[int, int] = {}
    return [
        (int(rows[firsts[codes[n]]]), int(rows[n]))
        for n in np.lexsort(places).tolist()
        if firsts.setdefault(codes[n], n) != n
    ]


def _hashes_of_ids(table: pa.Table) -> Iterator[int]:
    for batch in table.select(["task_id"]).to_batches(max_chunksize=65_536):
        yield from map(xxh3_64_intdigest, batch[0].cast(pa.binary()).to_pylist())


def write_table(path: Path, table: pa.Table, check: Callable[[], None] = lambda: None) -> None:
    """Write a table for later runs; `check` runs meanwhile, and if it raises, no file is left."""
    with atomic_path(path) as temporary, ThreadPoolExecutor(max_workers=1) as pool:
        written = pool.submit(_write, temporary, table)
        check()
        written.result()


def _write(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def open_table(path: Path) -> pa.Table | None:
    """Map a table of an earlier run into memory, which processes share; None without a good one."""
    if not path.exists():
        return None
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        logger.warning("%s is damaged (%s) and is ignored", path, error)
        return None


def _in_one_spelling(column: pa.Array) -> tuple[pa.Array, dict[str, tuple[str, int]]]:
    """Spell languages that are the same as most of their samples do.

    They differ in case, outer spaces or a usual short name, such as `py` for `python`.
    """
    counts = {pair["values"]: pair["counts"] for pair in column.value_counts().to_pylist()}
    names = column.dictionary.to_pylist()
    keys = _language_keys(names)
    best: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (-counts[name], name)):
        best.setdefault(keys[name], name)
    respelt = {name: (best[keys[name]], counts[name]) for name in names if best[keys[name]] != name}
    if not respelt:
        return column, {}
    texts = pa.array([best[keys[name]] for name in names], pa.string()).take(column.indices)
    return _in_one(pa.chunked_array([texts.dictionary_encode()])), respelt


def _language_keys(names: list[str]) -> dict[str, str]:
    """A key for each spelling; equal keys are one language.

    NOTE: beside `python2`, `python` may be either version, so that it stays on its own.
    """
    plain = {name: "".join(name.casefold().split()) for name in names}
    unclear = {"python", "py"} if {"python2", "py2"} & set(plain.values()) else set()
    return {n: text if text in unclear else _ALIASES.get(text, text) for n, text in plain.items()}


def _in_one(column: pa.ChunkedArray) -> pa.Array:
    """Join chunks; a dictionary gets only the values in use, sorted."""
    whole = column.combine_chunks()
    if not pa.types.is_dictionary(whole.type):
        return whole
    values = whole.dictionary
    used = pc.unique(whole.indices).drop_null()
    order = used.take(pc.sort_indices(values.take(used)))
    ranks = np.zeros(len(values), np.int32)
    ranks[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    indices = pa.array(ranks).take(whole.indices)
    return pa.DictionaryArray.from_arrays(indices, values.take(order))


def _sortable(column: pa.Array) -> pa.Array:
    """Return a column in a type that Arrow can sort; sorted dictionaries sort by their codes."""
    return column.indices if pa.types.is_dictionary(column.type) else column


def _number_repeats(task_ids: pa.Array, has_default_id: pa.Array) -> pa.Array:
    """Append -2, -3, ... to default ids that are equal to the one before; they are neighbours."""
    is_default = has_default_id.to_numpy(zero_copy_only=False)
    is_same = pc.equal(task_ids[1:], task_ids[:-1]).to_numpy(zero_copy_only=False).astype(bool)
    again = np.append(False, is_same & is_default[1:] & is_default[:-1])
    if not again.any():
        return task_ids
    positions = np.arange(len(again))
    ranks = positions - np.maximum.accumulate(np.where(again, 0, positions)) + 1
    numbered = [f"{task_ids[int(row)]}-{ranks[row]}" for row in positions[again]]
    return pc.replace_with_mask(task_ids, pa.array(again), pa.array(numbered, pa.string()))


def _codes(column: pa.Array) -> memoryview:
    """Return the codes of a column, -1 for null: int32 [rows]."""
    return np.asarray(column.fill_null(-1).to_numpy(zero_copy_only=False), np.int32).data


def _joined(column: pa.Array) -> memoryview:
    """Return the joined texts or keys of a whole column without nulls; they are not copied."""
    if not len(column):
        return memoryview(b"")  # no rows, no buffers
    content = memoryview(column.buffers()[-1])
    return content[: pc.sum(pc.binary_length(column)).as_py()]
