"""What `inspect` finds in stores that are intact, damaged, unfinished or missing."""

from pathlib import Path

import pytest
import torch

from featurize.errors import FeatureStoreError
from featurize.io.files import read_json, write_json
from featurize.store.inspect import inspect_store
from tests.support.unit_features import (
    RECIPE,
    TENSORS,
    damage,
    make_unit,
    make_writer,
    write_missing,
)


def test_an_intact_store_is_described_and_passes(tmp_path: Path) -> None:
    write_missing(tmp_path)
    heard: list[tuple[int, int]] = []
    report = inspect_store(tmp_path, verify=True, progress=lambda *now: heard.append(now))
    report.check()
    assert heard == [(1, 2), (2, 2)]
    assert report.labels == {
        "problems": 2,
        "correct": 4,
        "incorrect": 2,
        "without a label": 2,
        "task_ids that are not unique": 0,
    }
    expected = {"units": "2 of 2", "samples": 8, "poolings": "mean, last"}
    assert report.describe().items() >= (expected | {"checksums": "all correct"}).items()
    sizes = [path.stat().st_size for path in (tmp_path / "units").glob("*.safetensors")]
    assert report.bytes_of["features"] == sum(sizes)
    for name, width in TENSORS.items():
        features = torch.cat([make_unit(number).tensors[name] for number in (0, 1)])
        norms = features.norm(dim=1)
        facts = report.tensors[name]
        assert (facts.width, facts.num_bad) == (width, 0)
        found = (facts.smallest_norm, facts.mean_norm, facts.largest_norm)
        expected = (norms.min().item(), norms.mean().item(), norms.max().item())
        assert found == pytest.approx(expected)


def test_checksums_are_compared_only_on_request(tmp_path: Path) -> None:
    write_missing(tmp_path)
    damage(tmp_path / "units/00001.safetensors", "flipped")
    report = inspect_store(tmp_path)
    report.check()
    assert "--verify" in report.describe()["checksums"]
    with pytest.raises(FeatureStoreError, match=r"unit 1 \(00001\.safetensors: another checksum\)"):
        inspect_store(tmp_path, verify=True).check()


@pytest.mark.parametrize("file", ["00001.safetensors", "00001.parquet"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_torn_or_missing_file_is_found_by_its_size(
    tmp_path: Path, file: str, verify: bool
) -> None:
    write_missing(tmp_path)
    path = tmp_path / "units" / file
    size = path.stat().st_size
    damage(path, "torn")
    report = inspect_store(tmp_path, verify=verify)
    assert report.damaged == {1: f"{file}: {size - 2:,} bytes of {size:,}"}
    assert report.describe()["checksums"] == "1 damaged"
    assert report.tensors["mean.2"].smallest_norm > 0  # of the intact unit
    damage(path, "lost")
    with pytest.raises(FeatureStoreError, match=rf"damaged: unit 1 \({file}: missing\);"):
        inspect_store(tmp_path, verify=verify).check()


def test_damaged_units_are_counted_with_the_command_that_made_the_store(tmp_path: Path) -> None:
    write_missing(tmp_path, num_units=9)
    for path in (tmp_path / "units").glob("*.parquet"):
        path.unlink()
    with pytest.raises(FeatureStoreError, match=r"unit 0 .*unit 2 .* and 6 more;.*--repair` with"):
        inspect_store(tmp_path).check()
    plan = read_json(tmp_path / "plan.json")
    write_json(tmp_path / "plan.json", plan | {"command": "critic featurize --split dev"})
    with pytest.raises(FeatureStoreError, match=r"`critic featurize --split dev --repair`$"):
        inspect_store(tmp_path).check()


def test_a_damaged_header_of_the_right_size_is_found(tmp_path: Path) -> None:
    write_missing(tmp_path)
    path = tmp_path / "units/00000.safetensors"
    path.write_bytes(path.read_bytes().replace(b'{"', b'["', 1))
    assert list(inspect_store(tmp_path).damaged) == [0]


def test_rows_with_nan_are_counted(tmp_path: Path) -> None:
    unit = make_unit(0, dtype=torch.bfloat16)
    unit.tensors["mean.2"][1, 3] = 3e38  # its square overflows float32
    writer = make_writer(tmp_path, num_units=1)
    writer.begin()
    writer.write_unit(0, unit, {})
    writer.finish({})
    inspect_store(tmp_path).check()
    path = tmp_path / "units/00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-2:] = b"\xc0\x7f"  # NaN in bfloat16
    path.write_bytes(content)
    report = inspect_store(tmp_path)
    assert {name: facts.num_bad for name, facts in report.tensors.items()} == {
        "last.2": 0,
        "mean.2": 1,
    }
    with pytest.raises(FeatureStoreError, match=r"NaN or inf in mean\.2;"):
        report.check()


def test_an_unfinished_store_is_reported_with_the_command_to_resume(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, num_units=5, recipe=RECIPE | {"likelihood": True})
    writer.begin()
    writer.write_unit(3, make_unit(3), {})
    report = inspect_store(tmp_path)
    assert report.describe()["units"] == "1 of 5"
    assert report.describe()["likelihood"] == "yes"
    with pytest.raises(FeatureStoreError, match=r"4 of 5 units .*resume with `"):
        report.check()


def test_a_missing_store_or_damaged_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match=rf"{tmp_path}: .*featurize"):
        inspect_store(tmp_path)
    write_missing(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(FeatureStoreError, match=r"manifest\.json: damaged .*--repair`"):
        inspect_store(tmp_path)
