"""Whatever text a row holds, the index gives it back; whatever its order, the index is the same."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.data import scan
from featurize.data.index import DatasetIndex
from tests.support.indexed import parse_row

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["\u2028", "\n", "\r\n\n", "\x00", "\x85", "\ufeff", '"\\', "\U0001f600", "{}\n{}"]
)
rows = st.fixed_dictionaries(
    {"instruction": texts, "output": texts.map(lambda text: f"x{text}")},
    optional={
        "input": texts,
        "is_correct": st.sampled_from([True, False, None]),
        "problem_id": st.sampled_from(["a", "b", 3]),
        "metadata": st.fixed_dictionaries({}, optional={"language": texts, "difficulty": texts}),
    },
)


def write(path: Path, dataset: list[dict], ascii_only: bool, line_end: str) -> str:
    lines = [json.dumps(row, ensure_ascii=ascii_only) + line_end for row in dataset]
    path.write_bytes("".join(lines).encode())
    return str(path)


def spelt_alike(one: str | None, other: str | None) -> bool:
    """Languages of a dataset that differ in case or outer spaces are spelt in one way."""
    if one is None or other is None:
        return one is other
    return one.strip().casefold() == other.strip().casefold()


@settings(max_examples=40, deadline=None)
@given(
    dataset=st.lists(rows, min_size=1, max_size=12),
    ascii_only=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    chunk_bytes=st.integers(30, 300),
)
def test_texts_come_back_as_they_were_written(dataset, ascii_only, line_end, chunk_bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.jsonl"), dataset, ascii_only, line_end)
        with mock.patch.object(scan, "CHUNK_BYTES", chunk_bytes):
            index = DatasetIndex.build(path, Path(folder, "cache"))
        samples = index.read(np.arange(len(index)))
    assert len(samples) == len({sample.location for sample in samples}) == len(dataset)
    step = len(line_end.replace("\r", ""))
    for sample in samples:
        written = dataset[(int(sample.location.rpartition(":")[2]) - 1) // step]
        assert sample.instruction == written["instruction"]
        assert sample.input == written.get("input", "")
        assert sample.output == written["output"]
        assert sample.is_correct is written.get("is_correct")
        assert spelt_alike(sample.language, written.get("metadata", {}).get("language"))
        [alone] = parse_row(written)
        assert sample.task_id.startswith(alone.task_id)
    assert len({sample.task_id for sample in samples}) == len(dataset)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), dataset=st.lists(rows, min_size=1, max_size=10))
def test_any_order_of_rows_gives_the_same_index(data, dataset):
    dataset = dataset + dataset[:3]
    shuffled = data.draw(st.permutations(dataset))
    cut = data.draw(st.integers(0, len(dataset)))
    with tempfile.TemporaryDirectory() as folder:
        one = write(Path(folder, "a.jsonl"), dataset, True, "\n")
        two = [
            write(Path(folder, "b.jsonl"), shuffled[:cut], True, "\n"),
            write(Path(folder, "c.jsonl"), shuffled[cut:], True, "\n"),
        ]
        first = DatasetIndex.build(one, Path(folder, "cache"))
        second = DatasetIndex.build(two, Path(folder, "cache"))
        drop = ["file", "line", "offset", "length"]
        tables = [index.table.drop_columns(drop) for index in (first, second)]
        assert tables[0].equals(tables[1])
    assert first.content_fingerprint == second.content_fingerprint
