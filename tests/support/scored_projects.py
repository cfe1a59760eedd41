"""A tiny project featurized in this process, with a head of random weights that records it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.loader import load_config, to_dict
from featurize.run.compute import compute
from featurize.run.job import FeaturizeJob
from featurize.run.plan import plan_featurize
from featurize.run.ranks import Ranks
from featurize.store import FeatureStore
from headtrain.features.inputs import choose_columns, read_head_inputs
from headtrain.head.checkpoint import HeadRecord, write_head
from headtrain.head.model import EnsembleModel, HeadModel
from tests.support.row_files import write_rows
from tests.support.tiny_models import write_tiny_llama
from tests.support.tiny_project import OPTIONS, make_rows


class Silent:
    """A reporter that says nothing."""

    def planned(self, plan: Any) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self, tokens: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ScoredProject:
    """Its rows, their features and a head."""

    rows: Sequence[dict[str, Any]]
    store: FeatureStore
    head: Path
    model: Path


def make_project(
    folder: Path,
    *overrides: str,
    tensors: Sequence[str] | None = None,
    num_members: int = 1,
    fitted: dict[str, Any] | None = None,
    backbone: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    spec: dict[str, Any] | None = None,
    **record: Any,
) -> ScoredProject:
    """Eight problems in `folder`.

    `backbone` changes the config of the LLaMA; `record` replaces fields of the head's record,
    `spec` its shape.
    """
    model = write_tiny_llama(folder / "model", adds_bos=True, **(backbone or {}))
    if chat_template is not None:
        (model / "chat_template.jinja").write_text(chat_template)
    rows = make_rows("train", 8)
    path = write_rows(folder / "train.jsonl", rows)
    settings = load_config(
        Path("demo.yaml"),
        [
            *OPTIONS,
            f"models.policy.path={model}",
            f"dataset.train={path}",
            "dataset.max_length=200",
            "models.policy.dtype=float32",
            f"storage.root={folder / 'storage'}",
            *overrides,
        ],
    )
    job = FeaturizeJob(
        backbone=settings.models.policy,
        dataset=settings.dataset,
        featurize=settings.featurize,
        runtime=settings.runtime,
        prompt=settings.prompt,
        split="train",
        store_dir=folder / "store",
        cache_dir=folder / "storage" / "cache",
    )
    compute(plan_featurize(job), Ranks(), Silent())
    store = FeatureStore.open(folder / "store")
    columns = choose_columns(store, tensors, None)
    features = read_head_inputs(store, columns).features
    fields: dict[str, Any] = {
        "head_type": "mlp",
        "dropout": 0.3,
        "tensors": dict(zip(columns.tensors, columns.widths, strict=True)),
        "likelihood": columns.likelihood,
        "recipe_fingerprint": store.manifest.recipe_fingerprint,
        "store_fingerprint": store.manifest.fingerprint,
        "step": 1,
        "metrics": {},
        "config": to_dict(settings),
        "tracking_run_id": None,
        "num_members": num_members,
        "fitted": fitted or {"calibration": {"slope": 2.0, "intercept": 0.5}, "f1_threshold": 0.0},
        **(spec or {}),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        members = [HeadModel(HeadRecord(**fields)) for _ in range(num_members)]
        for name, parameter in (pair for member in members for pair in member.named_parameters()):
            if name in ("mix", "direct"):  # else 0, and a mistake in them would not show
                parameter.data.normal_(std=0.3)
    for member in members:
        member.normaliser.fit(features, layout=member.spec.layout)
    head = write_head(folder / "head", EnsembleModel(members), HeadRecord(**(fields | record)))
    return ScoredProject(rows=rows, store=store, head=head, model=model)
