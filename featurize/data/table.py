"""The table of a dataset's samples: its columns, the order of its rows, and its fingerprint."""

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128

_DICTIONARY_COLUMNS = ("problem_id", "language", "difficulty", "source", "author")
INDEX_COLUMNS = (
    "task_id", "problem_id", "is_correct", "language", "difficulty", "source",
    "file", "line", "offset", "length", "part",
    "prompt_key", "output_key", "prompt_chars", "output_chars",
)  # fmt: skip
"""Columns of every index; `author` is there as well if any sample has one."""

_PYTHON = ("python", "py")
_ALIASES = {
    "python": "python3", "py": "python3", "py3": "python3", "py2": "python2",
    "c++": "cpp", "cxx": "cpp", "cc": "cpp", "c#": "csharp", "cs": "csharp", "c-sharp": "csharp",
    "js": "javascript", "ts": "typescript", "golang": "go", "rs": "rust", "rb": "ruby",
    "kt": "kotlin", "sh": "bash", "shell": "bash", "hs": "haskell", "jl": "julia",
}  # fmt: skip

RESPELT = b"respelt_languages"
"""Key of the table's metadata: languages that are spelt as most of their samples do."""
_SORT_KEYS = (
    "prompt_key", "output_key", "task_id",
    # They order rows with equal default ids; without them the suffixes would follow the files.
    "is_correct", "problem_id", "language", "difficulty", "source", "author",
)  # fmt: skip


def sort_by_content(chunks: list[pa.Table]) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Join scanned samples, sort them and number equal default ids; empties `chunks`.

    Returns the table and the (first, later) rows of every task_id that is used again.
    """
    columns = dict(zip(chunks[0].column_names, pa.concat_tables(chunks).columns, strict=True))
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
    columns["task_id"] = _number_repeats(columns["task_id"], columns["has_default_id"])
    hashes = np.sort(columns["id_hash"].to_numpy())  # much faster than comparing the ids
    may_repeat = bool((hashes[1:] == hashes[:-1]).any())
    has_authors = columns["author"].null_count < len(columns["author"])
    names = [*INDEX_COLUMNS, *(["author"] if has_authors else [])]
    table = pa.table({name: columns[name] for name in names})
    table = table.replace_schema_metadata({RESPELT: orjson.dumps(respelt)} if respelt else None)
    return table, _repeated_ids(table) if may_repeat else []


def respelt_languages(table: pa.Table) -> dict[str, tuple[str, int]]:
    """Return each language that was spelt another way, its spelling now, and its samples."""
    found = (table.schema.metadata or {}).get(RESPELT, b"{}")
    return {name: (spelling, count) for name, (spelling, count) in orjson.loads(found).items()}


def _in_one_spelling(column: pa.Array) -> tuple[pa.Array, dict[str, tuple[str, int]]]:
    """Spell languages that are the same as most of their samples do.

    They differ in case, outer spaces or a usual short name, such as `py` for `python`.
    """
    names = column.dictionary.to_pylist()
    counts = dict.fromkeys(names, 0)
    for pair in column.value_counts().to_pylist():
        if pair["values"] is not None:
            counts[pair["values"]] = pair["counts"]
    keys = _language_keys(names)
    best: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (-counts[name], name)):
        best.setdefault(keys[name], name)
    chosen = [best[keys[name]] for name in names]
    respelt = {
        name: (spelling, counts[name])
        for name, spelling in zip(names, chosen, strict=True)
        if name != spelling
    }
    if not respelt:
        return column, {}
    texts = pa.array(chosen, pa.string()).take(column.indices)
    return _in_one(pa.chunked_array([texts.dictionary_encode()])), respelt


def _language_keys(names: list[str]) -> dict[str, str]:
    """A key for each spelling; equal keys are one language.

    NOTE: beside `python2`, `python` may be either version, so that it stays on its own.
    """
    plain = {name: "".join(name.casefold().split()) for name in names}
    is_clear = not {"python2", "py2"} & set(plain.values())
    keys = {name: _ALIASES.get(text, text) for name, text in plain.items()}
    return {
        name: plain[name] if key == "python3" and not is_clear and plain[name] in _PYTHON else key
        for name, key in keys.items()
    }


def with_sorted_dictionaries(table: pa.Table) -> pa.Table:
    """Rebuild the dictionary columns with only the values in use, sorted."""
    for name in table.column_names:
        if name not in _DICTIONARY_COLUMNS:
            continue
        position = table.schema.get_field_index(name)
        table = table.set_column(position, name, _in_one(table[name]))
    return table.combine_chunks()


def content_fingerprint(table: pa.Table) -> str:
    """Hash the content of sorted samples; their files and lines are left out."""
    digest = xxh3_128(b"critic samples 2")
    names = ("task_id", "problem_id", "is_correct", "language", "difficulty", "source", "author")
    for name in filter(set(table.column_names).__contains__, names):
        column = table[name].combine_chunks()
        if name in _DICTIONARY_COLUMNS:
            digest.update(orjson.dumps([name, len(column), column.dictionary.to_pylist()]))
            digest.update(_codes(column.indices))
        elif name == "task_id":
            digest.update(pc.binary_length(column).to_numpy())
            digest.update(_joined(column))
        else:
            digest.update(_codes(column.cast(pa.int8())))
    for name in ("prompt_key", "output_key"):
        digest.update(_joined(table[name].combine_chunks()))
    return digest.hexdigest()


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
    if pa.types.is_dictionary(column.type):
        return column.indices
    return column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column


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


def _repeated_ids(table: pa.Table) -> list[tuple[int, int]]:
    """Return (first, later) rows of every task_id that is used again, in the order of the files."""
    codes = table["task_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    places = [table[name].to_numpy() for name in ("part", "line", "file")]
    rows = np.lexsort((*places, codes))
    is_first = np.append(True, codes[rows][1:] != codes[rows][:-1])
    first = rows[np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))]
    first, later = first[~is_first], rows[~is_first]
    order = np.lexsort([place[later] for place in places])
    return list(zip(first[order].tolist(), later[order].tolist(), strict=True))


def _codes(column: pa.Array) -> memoryview:
    """Return the codes of a column, -1 for null: int32 [rows]."""
    return np.asarray(column.fill_null(-1).to_numpy(zero_copy_only=False), np.int32).data


def _joined(column: pa.Array) -> memoryview:
    """Return the joined texts or keys of a column without nulls; they are not copied."""
    if not len(column):
        return memoryview(b"")  # no rows, no buffers
    *_, starts, content = column.buffers()
    first, last = column.offset, column.offset + len(column)
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        return memoryview(content)[width * first : width * last]
    places = np.frombuffer(starts, np.int32)
    return memoryview(content)[places[first] : places[last]]
