"""Where an evaluation comes from: rows for its report, the same for the same inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from featurize.store import FeatureStore
from headtrain.head.checkpoint import RECORD_FILE, TrainedHead


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a head was made from."""

    rows: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    """The resolved configuration of the training, as YAML."""


def find_provenance(head: TrainedHead, stores: Mapping[str, FeatureStore]) -> Provenance:
    """Describe a head and the features it was evaluated on.

    NOTE: the date is that of the head's file, not of the evaluation, so that an evaluation that is
    repeated gives the same page.
    """
    record = head.record
    rows = describe_head(head)
    if stores:
        rows |= _recipe_rows(next(iter(stores.values())).manifest.recipe)
    for name, store in stores.items():
        counts, manifest = store.manifest.counts, store.manifest
        rows[f"features of {name}"] = (
            f"{counts.get('samples', 0):,} samples, {manifest.fingerprint}"
        )
    rows["versions"] = ", ".join(f"{name} {one}" for name, one in record.versions.items())
    config = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    return Provenance(rows={name: text for name, text in rows.items() if text}, config=config)


def describe_head(head: TrainedHead) -> dict[str, str]:
    """Describe a head: its file, what it reads and what it was trained on."""
    record = head.record
    rows: dict[str, str] = {}
    if (written := _written(head.path)) is not None:
        rows["head written"] = f"{written:%Y-%m-%d %H:%M} UTC"
    rows["head"] = f"{head.path}, weights {record.weights_checksum[:16]}, step {record.step:,}"
    if record.num_members > 1:
        rows["members"] = f"{record.num_members} heads, averaged"
    rows["reads"] = ", ".join([*record.tensors, *(["likelihood"] if record.likelihood else [])])
    rows["pairs trained on"] = _pairs(record.pairs)
    return {name: text for name, text in rows.items() if text}


def _recipe_rows(recipe: Mapping[str, Any]) -> dict[str, str]:
    backbone = recipe.get("backbone", "")
    if isinstance(backbone, Mapping):
        backbone = f"{backbone.get('name', '-')}, {backbone.get('digest', '-')}"
    return {
        "backbone": str(backbone),
        "tokenizer": str(recipe.get("tokenizer", "")),
        "template": str(recipe.get("template", "")),
    }


def _pairs(pairs: Mapping[str, Any]) -> str:
    if not pairs:
        return ""
    checksum = str(pairs.get("checksum", "-"))[:16]
    return f"{pairs.get('num_pairs', 0):,} of {pairs.get('num_problems', 0):,} problems, {checksum}"


def _written(folder: str) -> datetime | None:
    """When head.json was written; None if it is not on this machine."""
    path = Path(folder) / RECORD_FILE
    if "://" in folder or not path.exists():
        return None
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
