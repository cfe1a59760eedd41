"""Featurize jobs over a few rows and a backbone that is never loaded, for tests of the plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from featurize.data.encoder import SampleEncoder
from featurize.model.forward import Features
from featurize.run.job import FeaturizeJob
from featurize.run.plan import Choose, FeaturizePlan, plan_featurize
from featurize.run.units import read_unit, to_unit_features
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    FeaturizeSettings,
    PromptSettings,
    RuntimeSettings,
)
from featurize.store.writer import StoreWriter
from tests.support import row_files
from tests.support.tiny_models import make_tokenizer


def make_rows(num_problems: int = 6, num_outputs: int = 5) -> list[dict[str, Any]]:
    """Problems of several outputs of various lengths; the last repeats the first under its id."""
    return [
        {
            "instruction": f"Solve {{{problem}}}" + " again" * problem,
            "input": "5" if problem % 2 else "",
            "output": f"print({number % (num_outputs - 1)})\n" * (1 + number % (num_outputs - 1)),
            "is_correct": (True, False, None)[number % 3],
            "problem_id": f"p{problem}",
            "task_id": f"p{problem}-{number}",
            "metadata": {"language": "python", "difficulty": problem, "source": "made"},
        }
        for problem in range(num_problems)
        for number in range(num_outputs)
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows; returns the path as settings have it."""
    return str(row_files.write_rows(path, rows))


def write_backbone(folder: Path, weights: bytes = b"weights") -> Path:
    """A model folder of which all but the weights can be read."""
    config = LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(weights)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_plan(
    folder: Path,
    paths: str | Sequence[str],
    *,
    limit_problems: int | None = None,
    backbone: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
    split: str = "train",
    choose: Choose | None = None,
    **featurize: Any,
) -> FeaturizePlan:
    """The plan of a job whose model, cache and store lie in `folder`."""
    if not (folder / "model").exists():
        write_backbone(folder / "model")
    files = paths if isinstance(paths, str) else tuple(paths)
    names = {"name": "tiny", "path": str(folder / "model"), "dtype": "float32"}
    return plan_featurize(
        FeaturizeJob(
            backbone=BackboneSettings(**names | dict(backbone or {})),
            dataset=DatasetSettings(**{"name": "made", "train": files} | dict(dataset or {})),
            featurize=FeaturizeSettings(**{"unit_tokens": 150} | featurize),
            runtime=RuntimeSettings(**{"device": "cpu"} | dict(runtime or {})),
            split=split,
            store_dir=folder / "store",
            cache_dir=folder / "cache",
            limit_problems=limit_problems,
        ),
        choose,
    )


def make_encoder(
    *, max_length: int = 400, max_prompt_length: int = 300, **prompt: Any
) -> SampleEncoder:
    return SampleEncoder(
        PromptSettings(**prompt),
        make_tokenizer(),
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )


def make_features(work: Any, plan: FeaturizePlan) -> Features:
    """Features that tell ids apart: the ids of the prompt and of the output, summed up."""
    rows = torch.empty((work.grouping.num_rows, plan.recipe.hidden_size))
    for group in work.grouping.groups:
        for output, row in zip(group.outputs, group.rows, strict=True):
            rows[row] = sum(group.prompt) + torch.arange(1, 9) * sum(output)
    tensors = {name: rows.clone() for name in plan.recipe.spec.tensor_names}
    likelihood = rows[:, :4].clone() if plan.recipe.spec.likelihood else None
    return Features(tensors=tensors, likelihood=likelihood)


def write_store(plan: FeaturizePlan) -> Path:
    """Does what is planned, but for the backbone."""
    writer = StoreWriter(
        plan.job.store_dir,
        {
            "fingerprint": plan.fingerprint,
            "recipe_fingerprint": plan.recipe.fingerprint,
            "recipe": plan.recipe.fields,
            "num_units": len(plan.units),
        },
    )
    writer.begin()
    encoder = make_encoder()
    for number, (start, stop) in enumerate(plan.units):
        work = read_unit(number, torch.arange(start, stop).numpy(), plan.index, encoder)
        unit = to_unit_features(work, make_features(work, plan), plan.recipe)
        writer.write_unit(number, unit, work.counts)
    writer.finish({"read": plan.num_read})
    return plan.job.store_dir
