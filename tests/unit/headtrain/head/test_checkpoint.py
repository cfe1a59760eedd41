import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from featurize.store import FeatureStore
from headtrain.features.inputs import choose_columns, read_head_inputs, read_rows
from headtrain.head.checkpoint import (
    CheckpointError,
    HeadRecord,
    check_upload_uri,
    load_head,
    upload_head,
    write_head,
)
from headtrain.head.model import EnsembleModel, HeadModel
from tests.support.synthetic_stores import replace_column, write_store

RECORD = HeadRecord(
    head_type="mlp",
    dropout=0.3,
    tensors={"mean.2": 32},
    likelihood=True,
    recipe_fingerprint="recipe",
    store_fingerprint="content",
    step=12,
    metrics={"valid/accuracy_over_problems": 0.75},
    config={"training": {"dropout": 0.3}},
    tracking_run_id="abc",
)


@pytest.fixture
def model() -> EnsembleModel:
    member = HeadModel(RECORD)
    member.normaliser.fit(torch.randn(50, 36) * 3 + 1)
    return EnsembleModel([member]).eval()


@pytest.fixture
def folder(tmp_path: Path, model: EnsembleModel) -> Path:
    return write_head(tmp_path / "run" / "best", model, RECORD)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "store", likelihood=True)


def test_a_head_comes_back_as_it_was_written(folder: Path, model: EnsembleModel) -> None:
    head = load_head(folder)
    features = torch.randn(5, 36)
    with torch.no_grad():
        expected = model(features).squeeze(-1)
    assert torch.equal(head.score(features), expected)
    record = dataclasses.replace(head.record, versions={}, weights_checksum="")
    assert record == RECORD
    assert head.record.versions["torch"] == torch.__version__
    assert not head.model.training


@pytest.mark.parametrize("name", ["", "best", "best/head.json", "best/head.safetensors"])
def test_a_head_is_found_by_its_file_its_folder_or_its_run(folder: Path, name: str) -> None:
    assert load_head(folder.parent / name).record.step == 12
    assert load_head((folder.parent / name).as_uri()).record.step == 12


def test_a_runs_folder_gives_the_final_head_where_there_is_no_best(
    tmp_path: Path, model: HeadModel
) -> None:
    write_head(tmp_path / "final", model, dataclasses.replace(RECORD, step=99))
    assert load_head(tmp_path).record.step == 99
    write_head(tmp_path / "best", model, RECORD)
    assert load_head(tmp_path).record.step == 12


def test_a_folder_without_a_head_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run `critic train-head` first"):
        load_head(tmp_path)


def test_a_store_is_scored_in_the_order_of_its_table(folder: Path, store: FeatureStore) -> None:
    head = load_head(folder)
    inputs = read_head_inputs(store, choose_columns(store, None, None))
    expected = np.empty(96, dtype=np.float32)
    expected[inputs.samples.table_rows] = head.score(inputs.features).numpy()[inputs.rows]
    np.testing.assert_allclose(head.score(store), expected, rtol=1e-5)


def test_samples_that_share_a_feature_row_get_one_value(folder: Path, store: FeatureStore) -> None:
    rows = pa.array(np.arange(96)[::-1] // 3 * 3)
    shared = replace_column(store, "feature_row", rows)
    head = load_head(folder)
    values = head.score(shared)
    first = np.array([rows.to_pylist().index(row) for row in rows.to_pylist()])
    expected = head.score(read_rows(shared, RECORD.columns, rows.to_numpy(), first))
    np.testing.assert_allclose(values, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert len(np.unique(values)) == 32


def test_an_ensemble_is_one_head_with_a_mean_and_a_spread(
    folder: Path, store: FeatureStore
) -> None:
    members = [HeadModel(RECORD).eval() for _ in range(3)]
    for member in members:
        member.normaliser.fit(torch.randn(50, 36))
    record = dataclasses.replace(RECORD, num_members=3)
    head = load_head(write_head(folder.parent / "three", EnsembleModel(members), record))
    features = torch.randn(5, 36)
    with torch.no_grad():
        values = torch.stack([member(features).squeeze(-1) for member in members])
    torch.testing.assert_close(head.score(features), values.mean(0))
    torch.testing.assert_close(head.spread(features), values.std(0, correction=0))
    assert (head.spread(features) > 0).all()
    assert head.score(store).shape == (96,)
    assert load_head(folder).spread(features).tolist() == [0.0] * 5


def test_an_ensemble_with_another_number_of_members_is_refused(folder: Path) -> None:
    models = EnsembleModel([HeadModel(RECORD), HeadModel(RECORD)])
    record = dataclasses.replace(RECORD, num_members=3)
    with pytest.raises(CheckpointError, match="has 2 members, not 3"):
        load_head(write_head(folder.parent / "two", models, record))


@pytest.mark.parametrize("num_members", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {"feature_mix": "mix"},
        {"head_width": 7},
        {"likelihood_direct": True},
        {"head_type": "linear", "likelihood_direct": True, "feature_mix": "mix"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_head_of_any_shape_comes_back(
    folder: Path, changes: dict[str, Any], num_members: int
) -> None:
    record = dataclasses.replace(RECORD, num_members=num_members, **changes)
    whole = EnsembleModel.of(record, num_members).eval()
    for parameter in whole.parameters():
        parameter.data = torch.randn(parameter.shape)
    head = load_head(write_head(folder.parent / "other", whole, record))
    features = torch.randn(5, 36)
    with torch.no_grad():
        assert torch.equal(head.score(features), whole(features).squeeze(-1))


def test_samples_without_a_label_are_scored_too(folder: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "unlabelled", labels=[None] * 96, likelihood=True)
    values = load_head(folder).score(store)
    assert values.shape == (96,)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 90


def test_features_of_any_leading_shape_are_scored(folder: Path) -> None:
    assert load_head(folder).score(torch.randn(2, 3, 36, dtype=torch.bfloat16)).shape == (2, 3)


def test_a_store_of_another_recipe_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", recipe_fingerprint="other", likelihood=True)
    with pytest.raises(CheckpointError, match=r"recipe recipe, but .* recipe other; featurize"):
        load_head(folder).check(other)


def test_a_store_without_the_heads_columns_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="likelihood"):
        load_head(folder).check(write_store(tmp_path / "plain"))
    narrow = write_store(tmp_path / "narrow", tensors={"mean.2": 16}, likelihood=True)
    with pytest.raises(CheckpointError, match=r"\(32,\).*\(16,\)"):
        load_head(folder).check(narrow)


def test_weights_and_record_that_do_not_belong_together_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    other = write_head(tmp_path / "other", EnsembleModel.of(RECORD, 1), RECORD)
    (folder / "head.safetensors").write_bytes((other / "head.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"not the file head\.json was written with"):
        load_head(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 1}', "{}"])
def test_a_damaged_record_is_refused(folder: Path, content: str) -> None:
    (folder / "head.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"head\.json: damaged"):
        load_head(folder)


def test_a_record_of_another_format_is_refused(folder: Path) -> None:
    fields = json.loads((folder / "head.json").read_text()) | {"format_version": 7}
    (folder / "head.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="format version 7, this version reads 1"):
        load_head(folder)


def test_weights_that_are_not_finite_are_never_written(folder: Path, model: EnsembleModel) -> None:
    before = (folder / "head.safetensors").read_bytes()
    model.members[0].head.mlp[0].weight.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"head\.mlp\.0\.weight holds NaN or inf at step 12"):
        write_head(folder, model, RECORD)
    assert (folder / "head.safetensors").read_bytes() == before


def test_writing_leaves_nothing_but_the_two_files(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["head.json", "head.safetensors"]


def test_a_head_is_copied_to_any_filesystem(folder: Path) -> None:
    target = upload_head(folder, "memory://bucket/critic/")
    assert target == f"memory://bucket/critic/{folder.parent.name}/{folder.name}"
    copied, original = load_head(target).record, load_head(folder).record
    assert copied == original


def test_a_uri_that_cannot_be_opened_is_refused_before_a_run() -> None:
    check_upload_uri("memory://bucket")
    with pytest.raises(CheckpointError, match="'nowhere://bucket'"):
        check_upload_uri("nowhere://bucket")
