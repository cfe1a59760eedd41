"""Any flipped bit or cut is noticed and repaired; any requested rows are the right ones."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.store import FeatureStore
from tests.support.unit_features import make_unit, make_writer, read_tree, write_missing

FILES = [f"units/{n:05d}.{suffix}" for n in (0, 1) for suffix in ("safetensors", "parquet", "json")]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(FILES),
    place=st.integers(0, 10_000),
    bit=st.integers(0, 7),
    is_cut=st.booleans(),
)
def test_a_flipped_bit_or_a_cut_is_noticed_and_repaired(name, place, bit, is_cut):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_missing(path)
        whole, before = read_tree(path), make_writer(path).finished_units()
        content = bytearray(whole[name])
        place %= len(content)
        content[place] ^= 1 << bit
        (path / name).write_bytes(content[:place] if is_cut else content)
        number = int(name[6:11])
        after = make_writer(path).finished_units()
        # Blanks between the values of a receipt may change, but no value.
        is_blank = name.endswith("json") and not whole[name][place : place + 1].strip()
        assert after == before if is_blank and number in after else number not in after
        assert after.get(1 - number) == before[1 - number]
        write_missing(path)
        repaired = read_tree(path)
        assert {key: repaired[key] for key in whole if key != name or not is_blank} == {
            key: whole[key] for key in whole if key != name or not is_blank
        }


unit_rows = st.lists(st.integers(0, 4), min_size=1, max_size=5).map(
    lambda rows: [sorted(set(rows)).index(row) for row in rows]
)


WIDTHS = {"last.2": 32, "mean.2": 1100}
"""Rows of the second are larger than a gap that is read rather than skipped."""


@settings(max_examples=60, deadline=None)
@given(data=st.data(), units=st.lists(unit_rows, min_size=1, max_size=4))
def test_gathered_rows_equal_those_of_the_whole_tensor(data, units):
    with tempfile.TemporaryDirectory() as folder:
        writer = make_writer(Path(folder), num_units=len(units))
        writer.begin()
        made = [make_unit(number, rows=rows, tensors=WIDTHS) for number, rows in enumerate(units)]
        for number in data.draw(st.permutations(range(len(units)))):
            writer.write_unit(number, made[number], {})
        writer.finish({})
        store = FeatureStore.open(folder)
        total = sum(max(rows) + 1 for rows in units)
        assert store.num_feature_rows == total
        picked = data.draw(st.lists(st.integers(0, total - 1), max_size=12))
        rows = torch.tensor(picked, dtype=torch.int64)
        of_samples = torch.tensor(store.samples["feature_row"].to_pylist())
        for name in store.tensor_names:
            whole = store.read(name)
            assert torch.equal(whole, torch.cat([unit.tensors[name] for unit in made]))
            assert torch.equal(store.gather(name, rows), whole[rows])
            local = [unit.tensors[name][list(r)] for unit, r in zip(made, units, strict=True)]
            assert torch.equal(store.gather(name, of_samples), torch.cat(local))
