"""Parquet columns of every type become text, or are refused by name; nothing becomes a `repr`."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurize.data.parquet import read_parquet_lines
from featurize.data.prepare.columns import ColumnsJob, prepare_columns
from featurize.data.prepare.mapping import ColumnMap
from featurize.errors import DataError
from tests.support.indexed import read_samples

BYTE_TYPES = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "fixed_size_binary": pa.binary(5),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
}
MESSAGES = pa.list_(pa.struct({"role": pa.binary(), "content": pa.binary_view()}))


def write(path: Path, **columns: pa.Array) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def column(value: bytes, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array([value], kind.value_type).dictionary_encode()
    return pa.array([value], kind)


@pytest.mark.parametrize("kind", BYTE_TYPES.values(), ids=BYTE_TYPES)
def test_bytes_of_every_type_are_read_as_text(tmp_path: Path, kind: pa.DataType):
    answer = column("é = 1".encode()[:5], kind)
    path = write(tmp_path / "a.parquet", instruction=pa.array(["Set."]), output=answer)
    assert read_samples(path)[0].output == "é = "


@pytest.mark.parametrize("kind", BYTE_TYPES.values(), ids=BYTE_TYPES)
def test_bytes_that_are_no_text_are_refused_with_column_and_row(tmp_path: Path, kind: pa.DataType):
    both = [column(value, kind) for value in (b"a = 1", b"a\xff= 1")]
    answers = (
        pa.concat_arrays(both)
        if kind != BYTE_TYPES["dictionary"]
        else pa.array([b"a = 1", b"a\xff= 1"], pa.binary()).dictionary_encode()
    )
    path = write(tmp_path / "a.parquet", instruction=pa.array(["Set."] * 2), output=answers)
    with pytest.raises(DataError, match=r"a\.parquet:row 2: 'output' holds bytes .* UTF-8 .*xff"):
        read_samples(path)


def test_bytes_inside_messages_and_metadata_are_read_as_text(tmp_path: Path):
    chats = {
        "prompt": [{"role": b"user", "content": b"Add."}],
        "chosen": [{"role": b"assistant", "content": b"a + b"}],
        "rejected": [{"role": b"assistant", "content": b"a - b"}],
    }
    metadata = pa.array([{"language": b"c"}], pa.struct({"language": pa.binary()}))
    columns = {name: pa.array([chat], MESSAGES) for name, chat in chats.items()}
    right, wrong = read_samples(write(tmp_path / "a.parquet", metadata=metadata, **columns))
    assert (right.instruction, right.output, wrong.output) == ("Add.", "a + b", "a - b")
    assert right.language == wrong.language == "c"


def test_bytes_that_are_no_text_inside_a_column_are_refused_with_their_path(tmp_path: Path):
    chat = pa.array([[{"role": b"assistant", "content": b"\xff"}]], MESSAGES)
    path = write(tmp_path / "a.parquet", prompt=pa.array(["Add."]), completion=chat)
    with pytest.raises(DataError, match=r"row 1: 'completion\.0\.content' .*xff"):
        read_samples(path)


def test_a_mapped_path_into_bytes_is_read_as_text(tmp_path: Path):
    info = pa.array([{"code": b"a + b"}], pa.struct({"code": pa.binary()}))
    path = write(tmp_path / "a.parquet", instruction=pa.array(["Add."]), info=info)
    out = tmp_path / "out.jsonl"
    prepare_columns(
        ColumnsJob(sources=[path], out=out, columns=ColumnMap.parse(["output=info.code"]))
    )
    assert json.loads(out.read_text())["output"] == "a + b"


def test_a_string_that_is_not_utf_8_is_refused_with_column_and_row(tmp_path: Path):
    broken = pa.Array.from_buffers(
        pa.string(), 2, pa.array([b"ok", b"\xff"], pa.binary()).buffers()
    )
    path = write(tmp_path / "a.parquet", instruction=pa.array(["Add."] * 2), output=broken)
    with pytest.raises(DataError, match=r"a\.parquet:row 2: 'output' .*xff"):
        read_samples(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal("1.50")], pa.decimal128(5, 2)), "1.50"),
        (pa.array([0.5], pa.float16()), 0.5),
        (pa.array([float("nan")]), None),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([0], pa.timestamp("us", tz="UTC")), "1970-01-01T00:00:00+00:00"),
    ],
    ids=str,
)
def test_values_that_json_has_no_type_for_keep_their_meaning(
    tmp_path: Path, values: pa.Array, expected: Any
):
    [line] = read_parquet_lines(write(tmp_path / "a.parquet", x=values), "a.parquet")
    assert json.loads(line) == {"x": expected}


def test_no_module_writes_unknown_values_as_their_repr():
    root = Path(__file__).parents[4]
    sources = [
        path
        for room in ("featurize", "headtrain", "configs")
        for path in (root / room).rglob("*.py")
    ]
    assert [str(path) for path in sources if "default=str" in path.read_text()] == []


MAP = pa.map_(pa.string(), pa.string())


def test_a_map_is_read_as_metadata(tmp_path: Path):
    values = [[("language", "python"), ("level", "3")], [], None]
    texts = {name: pa.array(["a", "b", "c"]) for name in ("instruction", "output")}
    path = write(tmp_path / "a.parquet", metadata=pa.array(values, MAP), **texts)
    found = {s.output: s.language for s in read_samples(path)}
    assert found == {"a": "python", "b": None, "c": None}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.map_(pa.binary(), pa.binary()), [(b"k", b"v")], {"k": "v"}),
        (pa.map_(pa.int32(), pa.float64()), [(1, 0.5)], {"1": 0.5}),
        (
            pa.map_(pa.string(), MAP),
            [("a", [("b", "c")]), ("d", None)],
            {"a": {"b": "c"}, "d": None},
        ),
        (pa.list_(MAP), [[("a", "b")], []], [{"a": "b"}, {}]),
        (pa.list_(MAP, 1), [[("a", "b")]], [{"a": "b"}]),
        (
            pa.struct({"m": MAP, "n": pa.int8()}),
            {"m": [("a", "b")], "n": 1},
            {"m": {"a": "b"}, "n": 1},
        ),
        (pa.map_(pa.string(), pa.list_(pa.string())), [("a", ["b"])], {"a": ["b"]}),
    ],
)
def test_maps_of_any_kind_and_depth_are_objects(tmp_path: Path, kind, value, expected):
    path = write(tmp_path / "a.parquet", x=pa.array([value], kind))
    [line] = read_parquet_lines(path, "a.parquet")
    assert json.loads(line) == {"x": expected}


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (MAP, [("a", "1"), ("a", "2")], "the key 'a' twice"),
        (pa.map_(pa.binary(), pa.string()), [(b"\xff", "1")], "not UTF-8"),
        (pa.map_(pa.float32(), pa.string()), [(0.5, "1")], "the key 0.5, which is no text"),
    ],
)
def test_a_map_that_is_no_object_is_refused_by_name(tmp_path: Path, kind, value, told):
    path = write(tmp_path / "a.parquet", x=pa.array([None, value], kind))
    with pytest.raises(DataError, match=rf"a\.parquet:row 2: 'x' .*{told}"):
        list(read_parquet_lines(path, "a.parquet"))


def test_two_columns_of_one_name_are_refused_if_they_are_read(tmp_path: Path):
    texts = [pa.array(["Set."]), pa.array(["a = 1"]), pa.array(["b"]), pa.array(["c"])]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays(texts, ["instruction", "output", "x", "x"]), path)
    assert read_samples(str(path))[0].output == "a = 1"
    with pytest.raises(DataError, match=r"a\.parquet: has two columns 'x'; rename"):
        list(read_parquet_lines(str(path), "a.parquet"))
    pq.write_table(pa.Table.from_arrays(texts, ["instruction", "output", "output", "x"]), path)
    with pytest.raises(DataError, match="has two columns 'output'"):
        read_samples(str(path))


INFINITE = {
    "a column": ("rate", pa.array([1.0, float("inf")]), "'rate' is inf"),
    "float16": ("rate", pa.array(np.array([1, -np.inf], np.float16)), "'rate' is -inf"),
    "a dictionary": ("rate", pa.array([1.0, np.inf]).dictionary_encode(), "'rate' is inf"),
    "inside metadata": (
        "metadata",
        pa.array([{"times": [1.0]}, {"times": [2.0, float("inf")]}]),
        "'metadata.times.1' is inf",
    ),
    "a map": (
        "metadata",
        pa.array([[("time", 1.0)], [("time", float("inf"))]], pa.map_(pa.string(), pa.float64())),
        "'metadata.time' is inf",
    ),
}


@pytest.mark.parametrize(("name", "values", "told"), INFINITE.values(), ids=INFINITE)
def test_an_infinite_number_is_refused_with_column_and_row(
    tmp_path: Path, name: str, values: pa.Array, told: str
):
    path = write(tmp_path / "a.parquet", output=pa.array(["a", "b"]), **{name: values})
    with pytest.raises(DataError, match=rf"a\.parquet:row 2: .*{told}.*drop the column"):
        list(read_parquet_lines(path, "a.parquet"))


def test_an_infinite_number_in_a_column_that_is_not_read_does_no_harm(tmp_path: Path):
    path = write(tmp_path / "a.parquet", output=pa.array(["a"]), rate=pa.array([float("inf")]))
    assert list(read_parquet_lines(path, "a.parquet", ["output"])) == [b'{"output":"a"}']


def test_nan_is_a_missing_value_as_pandas_writes_it(tmp_path: Path):
    path = write(tmp_path / "a.parquet", rate=pa.array([float("nan"), 0.5]))
    assert list(read_parquet_lines(path, "a.parquet")) == [b'{"rate":null}', b'{"rate":0.5}']
