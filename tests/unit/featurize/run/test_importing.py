"""Importing hidden states that vLLM wrote: the store is the one that the backbone would give."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from featurize.errors import CriticError, DataError
from featurize.run.compute import compute
from featurize.run.importing import import_features
from featurize.run.job import FeaturizeJob, FeaturizeSummary
from featurize.run.launch import run_job
from featurize.run.plan import plan_featurize
from featurize.run.ranks import Ranks
from featurize.run.units import read_unit
from featurize.settings import PromptSettings
from featurize.store import FeatureStore
from featurize.store.manifest import read_manifest
from featurize.store.samples import ANSWER_COLUMNS, LIKELIHOOD_COLUMNS
from tests.support import tiny_jobs
from tests.support.scored_projects import Silent
from tests.support.tiny_jobs import make_encoder, make_rows, write_rows
from tests.support.tiny_models import write_tiny_llama

POOLINGS = ("mean", "last", "max", "std", "first", "delta")
LAST = 3
"""Layer after the final norm of the tiny LLaMA."""


def make_job(folder: Path, **features: Any) -> FeaturizeJob:
    if not (folder / "model").exists():
        write_tiny_llama(folder / "model")
    path = write_rows(folder / "rows.jsonl", make_rows(3, 4))
    settings = {"unit_tokens": 60, "storage_dtype": "float32", "layers": (0, 1, -1)}
    limits = {"max_length": 400, "max_prompt_length": 300}
    return tiny_jobs.make_job(
        folder, path, dataset=limits, **{**settings, "poolings": POOLINGS, **features}
    )


def sample_ids(job: FeaturizeJob) -> list[tuple[int, ...]]:
    """Token ids of every sample, in the order of the index."""
    plan = plan_featurize(job)
    encoder = make_encoder(**job.prompt.identity)
    work = read_unit(0, np.arange(len(plan.index)), plan.index, encoder)
    return [
        (*prompt.ids, *output.ids, *encoder.suffix.ids)
        for prompt, output in zip(work.prompts, work.outputs, strict=True)
    ]


def write_dumps(
    folder: Path,
    job: FeaturizeJob,
    sequences: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] = (0, 1, LAST),
    more: Sequence[int] = (7,),
) -> Path:
    """Write what vLLM writes for each sequence, by a pass of transformers: nothing is normed.

    `more` are tokens after the sequence, such as the end of the turn.
    """
    model = AutoModelForCausalLM.from_pretrained(str(job.backbone.path), dtype=torch.float32)
    last: list[torch.Tensor] = []
    model.model.layers[-1].register_forward_hook(lambda *args: last.append(args[-1]))
    folder.mkdir()
    for number, ids in enumerate(dict.fromkeys(map(tuple, sequences))):
        tokens = torch.tensor([*ids, *more])
        with torch.inference_mode():
            found = model(tokens[None], output_hidden_states=True).hidden_states
        unnormed = last.pop()
        unnormed = unnormed[0] if isinstance(unnormed, tuple) else unnormed
        states = [*found[:LAST], unnormed]
        stacked = torch.stack([states[layer][0] for layer in layers], dim=1)
        save_file(
            {"hidden_states": stacked, "token_ids": tokens},
            str(folder / f"cmpl-{number}.safetensors"),
        )
    return folder


def import_into(job: FeaturizeJob, folder: Path, **options: Any) -> FeaturizeSummary:
    return import_features(job, folder, Silent(), **options)


def assert_same_store(imported: FeatureStore, computed: FeatureStore) -> None:
    assert imported.tensor_names == computed.tensor_names
    rows = torch.arange(imported.num_feature_rows)
    for name in imported.tensor_names:
        torch.testing.assert_close(
            imported.gather(name, rows), computed.gather(name, rows), rtol=1e-5, atol=1e-5
        )
    for name in computed.samples.column_names:
        found, expected = imported.samples[name], computed.samples[name]
        if name in (*LIKELIHOOD_COLUMNS, *ANSWER_COLUMNS):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        else:
            assert found.to_pylist() == expected.to_pylist(), name


@pytest.mark.parametrize(
    "prompt", [PromptSettings(), PromptSettings(question="Good?", answers=("a", "b"))]
)
def test_an_imported_store_is_the_computed_one(tmp_path: Path, prompt: PromptSettings) -> None:
    job = make_job(tmp_path, prompt=prompt, likelihood=True)
    folder = write_dumps(tmp_path / "dumps", job, sample_ids(job))
    summary = import_into(job, folder)
    own = replace(job, store_dir=tmp_path / "computed")
    computed = compute(plan_featurize(own), Ranks(), Silent())
    assert_same_store(FeatureStore.open(job.store_dir), FeatureStore.open(own.store_dir))
    assert summary.counts == computed.counts
    manifest, other = read_manifest(job.store_dir), read_manifest(own.store_dir)
    assert manifest is not None
    assert other is not None
    assert manifest.recipe_fingerprint == other.recipe_fingerprint
    assert manifest.fingerprint != other.fingerprint
    assert manifest.imported is not None
    assert manifest.imported["from"] == "vllm extract_hidden_states"
    assert manifest.imported["layers"] == [0, 1, LAST]
    assert "imported" not in json.loads((tmp_path / "computed/manifest.json").read_text())


def test_layers_below_the_last_need_no_weights(tmp_path: Path) -> None:
    job = make_job(tmp_path, layers=(1,), poolings=("mean",))
    folder = write_dumps(tmp_path / "dumps", job, sample_ids(job), layers=(0, 1, 2))
    own = replace(job, store_dir=tmp_path / "computed")
    compute(plan_featurize(own), Ranks(), Silent())
    weights = tmp_path / "model/model.safetensors"
    content = weights.read_bytes()
    plan_featurize(job)  # the digest of the weights is cached by size and time

    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("the weights were loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurize.run.importing.load_backbone", refuse)
        import_into(job, folder, layers=[0, 1, 2])
    assert weights.read_bytes() == content
    assert_same_store(FeatureStore.open(job.store_dir), FeatureStore.open(own.store_dir))


def test_a_rerun_makes_only_what_is_missing_and_features_of_one_origin(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    folder = write_dumps(tmp_path / "dumps", job, sample_ids(job))
    first = import_into(job, folder)
    assert first.num_resumed_units == 0
    assert import_into(job, folder).was_up_to_date
    (tmp_path / "store/units/00001.json").unlink()
    (tmp_path / "store/manifest.json").unlink()
    again = import_into(job, folder)
    assert again.num_resumed_units == len(plan_featurize(job).units) - 1
    assert again.counts == first.counts
    with pytest.raises(CriticError, match=r"origin .*--overwrite"):
        run_job(job, Silent(), workers=1)


def test_samples_without_states_are_named_or_left_out_and_counted(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    ids = sample_ids(job)
    # As vLLM writes a generation that ended by its length: its last token has no state.
    folder = write_dumps(tmp_path / "dumps", job, [*ids[:-1], ids[-1][:-1], (5, 6, 7)], more=())
    with pytest.raises(DataError, match=r"rows\.jsonl:\d+: 'p\d-\d': no dump begins .*only") as no:
        import_into(job, folder)
    assert f"its first {len(ids[-1]) - 1}" in str(no.value)
    summary = import_into(job, folder, skips_missing=True)
    kept = plan_featurize(job).index
    num_missing = ids.count(ids[-1])
    assert summary.counts["without_states"] == summary.counts["not_selected"] == num_missing
    assert summary.counts["samples"] == len(kept) - num_missing
    assert summary.counts["dumps_unused"] == 2
    assert summary.describe()["not selected: no hidden states"] == num_missing


def test_a_sample_with_other_tokens_names_the_first_that_differs(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    ids = sample_ids(job)
    changed = [(*one[:-2], one[-2] + 1, one[-1]) for one in ids]
    folder = write_dumps(tmp_path / "dumps", job, changed, layers=(0, 1, LAST))
    with pytest.raises(DataError, match=r"another token at place") as refused:
        import_into(job, folder)
    assert refused.value.total == len(ids)
    with pytest.raises(DataError, match=r"another token"):
        import_into(job, folder, skips_missing=True)  # none would be left


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hidden_states", lambda states: states[4:], "cmpl-0.*--no-enable-prefix-caching"),
        (
            "hidden_states",
            lambda states: states.index_fill(0, torch.tensor(2), 0),
            "cmpl-0.*token 2 are all 0",
        ),
        ("hidden_states", lambda states: states[:, 1:], "cmpl-0.*2 layers, and 3 are .*--layer"),
        ("hidden_states", lambda states: states[..., ::2], "cmpl-0.*width 16, .* backbone's 32"),
        ("hidden_states", torch.Tensor.bfloat16, "cmpl-0.*set models.policy.dtype to bfloat16"),
        ("hidden_states", None, "cmpl-0.*no tensor 'hidden_states'"),
        ("token_ids", torch.neg, "cmpl-0.*token_ids are not all ids"),
        (
            "hidden_states",
            lambda states: states.index_fill(0, torch.tensor(-2), torch.nan),
            r"NaN .*'p\d",
        ),
    ],
)
def test_a_dump_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, change: Any, message: str
) -> None:
    job = make_job(tmp_path)
    folder = write_dumps(tmp_path / "dumps", job, sample_ids(job))
    file = folder / "cmpl-0.safetensors"
    dump = load_file(str(file))
    tensor = dump.pop(name)
    changed = {} if change is None else {name: change(tensor).contiguous()}
    save_file({**dump, **changed}, str(file))
    with pytest.raises(CriticError, match=message):
        import_into(job, folder)
    assert read_manifest(job.store_dir) is None


def test_a_cut_off_dump_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "dumps").mkdir()
    with pytest.raises(CriticError, match=r"has no .*shared_storage_path"):
        import_into(job, tmp_path / "dumps")
    (tmp_path / "dumps/cmpl-0.safetensors").write_bytes(b"\x10")
    with pytest.raises(CriticError, match=r"cmpl-0.*cannot be read.*still writing"):
        import_into(job, tmp_path / "dumps")


@pytest.mark.parametrize(
    ("layers", "message"),
    [([3, 1, 0], "3, 1, 0: .*ascending"), ([1, 3], "no layer 0"), ([0, 9], "layer")],
)
def test_layers_that_cannot_be_are_refused(tmp_path: Path, layers: list[int], message: str) -> None:
    with pytest.raises(CriticError, match=message):
        import_into(make_job(tmp_path), tmp_path, layers=layers)
