"""Computing a plan: units that run one by one, and units whose forward passes are cut together."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from featurize.errors import CriticError
from featurize.model import agreement
from featurize.model.engine import Engine
from featurize.model.sharing import WHOLE
from featurize.run import compute as compute_module
from featurize.run.compute import compute
from featurize.run.plan import FeaturizePlan
from featurize.run.ranks import RankGroup, Ranks
from featurize.store import FeatureStore
from tests.support.scored_projects import Silent, make_project
from tests.support.tiny_jobs import make_plan, make_rows, write_rows
from tests.support.tiny_models import write_tiny_model


@pytest.fixture
def plan(tmp_path: Path) -> FeaturizePlan:
    write_tiny_model(tmp_path / "model")
    rows = write_rows(tmp_path / "a.jsonl", make_rows(num_problems=9))
    limits = {"max_length": 500, "max_prompt_length": 250}
    plan = make_plan(tmp_path, rows, dataset=limits, likelihood=True, token_budget=700)
    assert len(plan.units) > 4
    return plan


def run(plan: FeaturizePlan, store: Path) -> FeatureStore:
    plan = replace(plan, job=replace(plan.job, store_dir=store))
    compute(plan, Ranks(), Silent())
    return FeatureStore.open(store)


@pytest.mark.parametrize("num_at_once", [2, 100])
def test_units_cut_together_give_the_store_that_units_give_one_by_one(
    plan: FeaturizePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_at_once: int
) -> None:
    expected = run(plan, tmp_path / "alone")
    monkeypatch.setattr(compute_module, "_units_at_once", lambda *_: num_at_once)
    monkeypatch.setattr(compute_module, "Engine", partial(Engine, depth=2))
    found = run(plan, tmp_path / "together")
    assert found.manifest.counts == expected.manifest.counts
    likelihood = [name for name in found.samples.column_names if name.startswith(("log", "ent"))]
    assert len(likelihood) == 4
    assert found.samples.drop(likelihood) == expected.samples.drop(likelihood)
    for name in plan.recipe.spec.tensor_names:
        torch.testing.assert_close(found.read(name), expected.read(name), rtol=2e-2, atol=2e-2)


def test_a_gpu_plans_a_few_passes_at_once_but_leaves_each_rank_its_share(
    plan: FeaturizePlan,
) -> None:
    group = RankGroup(Ranks(), WHOLE)
    cuda = torch.device("cuda", 0)
    # 4 passes of 700 tokens are 19 units of 150.
    assert compute_module._units_at_once(plan, group, cuda, 1000) == 19
    assert compute_module._units_at_once(plan, group, cuda, 20) == 5
    assert compute_module._units_at_once(plan, group, cuda, 1) == 1
    assert compute_module._units_at_once(plan, group, torch.device("cpu"), 1000) == 1


@pytest.mark.parametrize(("family", "reason"), [("bloom", "ALiBi"), ("llama", "differ")])
def test_packs_that_are_asked_for_are_compared_all_the_same(
    tmp_path: Path, family: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "asked", family)
    if family == "llama":
        monkeypatch.setattr(agreement, "TOLERANCE", dict.fromkeys(agreement.TOLERANCE, -1.0))
        monkeypatch.setattr(agreement, "check_padded", lambda *_: "")
    with pytest.raises(CriticError, match=rf"featurize\.forward .*{reason}.* auto or padded"):
        make_project(tmp_path, f"models.policy.path={model}", "featurize.forward=packed")
    assert not list((tmp_path / "store").glob("*.safetensors"))


def test_padded_sequences_that_are_asked_for_are_compared_with_those_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "asked")
    asked = (f"models.policy.path={model}", "featurize.forward=padded")
    plain = agreement.make_padded

    def by_number_of_sequences(singles: Any, device: Any, **options: Any) -> Any:
        made = plain(singles, device, **options)
        made.input_ids.floor_divide_(1 + (len(singles) > 1))
        return made

    monkeypatch.setattr(agreement, "make_padded", by_number_of_sequences)
    with pytest.raises(CriticError, match=r"features of a sequence differ by .* when it is padded"):
        make_project(tmp_path, *asked)
    assert not list((tmp_path / "store").glob("*.safetensors"))


def test_the_note_says_how_well_padded_sequences_agree(plan: FeaturizePlan, tmp_path: Path) -> None:
    notes: list[str] = []
    reporter = Silent()
    reporter.note = notes.append  # type: ignore[method-assign]
    settings = replace(plan.job.featurize, forward="padded")
    job = replace(plan.job, featurize=settings, store_dir=tmp_path / "padded")
    compute(replace(plan, job=job), Ranks(), reporter)
    (note,) = [note for note in notes if note.startswith("forward:")]
    assert re.search(r"padded \(featurize\.forward asks for it; .* agree .* to \d\.\de-\d+\)", note)
