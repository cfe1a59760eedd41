"""Merged stores: what each part has, in order, in one store of the same recipe."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from featurize.errors import FeatureStoreError
from featurize.run.merging import merge_features
from featurize.store import FeatureStore
from tests.support.synthetic_stores import replace_column, write_store
from tests.support.tiny_jobs import make_job
from tests.support.unit_features import damage

TENSORS = {"mean.2": 6, "last.2": 6}


def write_part(folder: Path, name: str, **options: object) -> FeatureStore:
    """A store whose ids begin with its name."""
    return write_store(
        folder / name,
        fingerprint=name,
        prefix=f"{name}-",
        tensors=TENSORS,
        **options,  # type: ignore[arg-type]
    )


def parts(folder: Path) -> list[FeatureStore]:
    return [
        write_part(folder, "a", seed=1, num_problems=5, units=3),
        write_part(folder, "b", seed=2, num_problems=4, units=1, authors=True),
    ]


def check_equal(merged: FeatureStore, stores: Sequence[FeatureStore]) -> None:
    for name in TENSORS:
        assert torch.equal(merged.read(name), torch.cat([store.read(name) for store in stores]))
    rows, first = merged.samples["feature_row"].to_pylist(), 0
    for store in stores:
        for row in store.samples["feature_row"].to_pylist():
            assert rows.pop(0) == first + row
        first += store.num_feature_rows
    for name in ("task_id", "problem_id", "is_correct", "output_tokens"):
        expected = [value for store in stores for value in store.samples[name].to_pylist()]
        assert merged.samples[name].to_pylist() == expected


def test_a_merged_store_has_the_rows_of_its_parts_in_order(tmp_path: Path) -> None:
    stores = parts(tmp_path)
    job = make_job(tmp_path, "none.jsonl")
    summary = merge_features(job, stores)
    assert summary.counts["samples"] == 9 * 8
    merged = FeatureStore.open(job.store_dir)
    check_equal(merged, stores)
    assert merged.manifest.recipe_fingerprint == stores[0].manifest.recipe_fingerprint
    authors = merged.samples["author"].to_pylist()
    assert authors[:40] == [None] * 40
    assert authors[40:44] == ["author-0", "author-1", "author-2", "author-3"]
    for unit, number in ((0, 0), (2, 2)):
        name = f"{unit:05d}.safetensors"
        ours = Path(job.store_dir) / "units" / name
        assert (
            ours.read_bytes()
            == (tmp_path / "a" / "units" / f"{number:05d}.safetensors").read_bytes()
        )


def test_a_damaged_merge_names_the_command_that_made_it(tmp_path: Path) -> None:
    job = replace(make_job(tmp_path, "none.jsonl"), command="critic merge-features a b")
    merge_features(job, parts(tmp_path))
    damage(Path(job.store_dir) / "units/00001.safetensors", "torn")
    with pytest.raises(FeatureStoreError, match="`critic merge-features a b --repair`"):
        FeatureStore.open(job.store_dir).read("mean.2")


def test_a_finished_merge_does_nothing_and_a_killed_one_resumes(tmp_path: Path) -> None:
    stores = parts(tmp_path)
    job = make_job(tmp_path, "none.jsonl")
    done: list[int] = []

    def stop_after_two(number: int, _total: int) -> None:
        done.append(number)
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_features(job, stores, stop_after_two)
    with pytest.raises(FeatureStoreError, match="unfinished"):
        FeatureStore.open(job.store_dir)
    assert merge_features(job, stores).num_resumed_units == 2
    check_equal(FeatureStore.open(job.store_dir), stores)
    assert merge_features(job, stores).was_up_to_date


def test_repair_writes_a_damaged_unit_again(tmp_path: Path) -> None:
    stores = parts(tmp_path)
    job = make_job(tmp_path, "none.jsonl")
    merge_features(job, stores)
    damage(Path(job.store_dir) / "units" / "00001.safetensors", "flipped")
    assert merge_features(replace(job, repair=True), stores).num_resumed_units == 3
    check_equal(FeatureStore.open(job.store_dir), stores)


def test_a_store_is_merged_once(tmp_path: Path) -> None:
    first, second = parts(tmp_path)
    again = FeatureStore.open(tmp_path / "b/../a")
    with pytest.raises(FeatureStoreError, match=r"/a: is named twice"):
        merge_features(make_job(tmp_path, "none.jsonl"), [first, second, again])


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
def test_a_damaged_unit_of_a_part_gets_no_new_checksum(tmp_path: Path, suffix: str) -> None:
    stores = parts(tmp_path)
    path = tmp_path / f"a/units/00002.{suffix}"
    whole = path.read_bytes()
    damage(path, "flipped")
    _ = [store.samples for store in stores]  # as it was read before
    job = make_job(tmp_path, "none.jsonl")
    with pytest.raises(FeatureStoreError, match=rf"a: damaged \(00002\.{suffix}: "):
        merge_features(job, stores)
    path.write_bytes(whole)
    assert merge_features(job, stores).num_resumed_units == 2


def test_statements_of_a_problem_stay_apart(tmp_path: Path) -> None:
    first, second = parts(tmp_path)
    numbers = pa.array([row % 2 for row in range(len(first.samples))], pa.int32())
    first.__dict__["samples"] = first.samples.append_column("statement", numbers)
    third = write_part(tmp_path, "old", num_problems=2)  # of a version that had no such column
    lengths = pa.array([7, 7, 9, 9] * 4, pa.int32())
    third = replace_column(third, "prompt_tokens", lengths)
    job = make_job(tmp_path, "none.jsonl")
    merge_features(job, [first, second, third])
    merged = FeatureStore.open(job.store_dir).samples
    expected = [*numbers.to_pylist(), *[0] * len(second.samples), *[0, 0, 1, 1] * 4]
    assert merged["statement"].to_pylist() == expected


def test_other_parts_need_overwrite(tmp_path: Path) -> None:
    stores = parts(tmp_path)
    job = make_job(tmp_path, "none.jsonl")
    merge_features(job, stores)
    with pytest.raises(FeatureStoreError, match="--overwrite"):
        merge_features(job, stores[::-1])
    merge_features(job, stores[::-1], overwrite=True)
    check_equal(FeatureStore.open(job.store_dir), stores[::-1])


def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path) -> None:
    stores = parts(tmp_path)
    job = make_job(tmp_path, "none.jsonl")
    others = {
        "problem_id 'a-problem-000'": write_store(
            tmp_path / "again", prefix="a-", tensors=TENSORS, fingerprint="again"
        ),
        "recipe": write_part(tmp_path, "c", recipe_fingerprint="other"),
        "planned pairs": write_part(tmp_path, "d"),
    }
    planned = others["planned pairs"]
    marks = pa.array([[]] * len(planned.samples), pa.list_(pa.int32()))
    planned.__dict__["samples"] = planned.samples.append_column("pairs", marks)
    for message, other in others.items():
        with pytest.raises(FeatureStoreError, match=message) as error:
            merge_features(job, [stores[0], other])
        assert str(other.path) in str(error.value)
    with pytest.raises(FeatureStoreError, match="two stores or more"):
        merge_features(job, stores[:1])
    assert not Path(job.store_dir).exists()


def test_overwriting_never_deletes_a_part_that_is_named_by_another_path(tmp_path: Path) -> None:
    first, second = parts(tmp_path)
    job = make_job(tmp_path, "none.jsonl")
    merged = Path(job.store_dir)
    merged.symlink_to(first.path)
    with pytest.raises(FeatureStoreError, match="is one of the stores to merge"):
        merge_features(job, [first, second], overwrite=True)
    assert FeatureStore.open(first.path).num_feature_rows == first.num_feature_rows
