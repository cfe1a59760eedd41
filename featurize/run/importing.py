"""Import features: pool the hidden states that vLLM wrote, instead of running the backbone."""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from featurize.arrays import Bools
from featurize.data.encoder import SampleEncoder
from featurize.errors import CriticError, DataError
from featurize.model.backbone import Backbone, load_backbone, resolve_layers
from featurize.model.batch import make_padded
from featurize.model.decoder import find_final_norm
from featurize.model.device import resolve_device
from featurize.model.forward import Features, FeatureSpec, features_of_states
from featurize.model.packing import PromptGroup
from featurize.model.source import load_tokenizer
from featurize.run.dumps import Dumps, DumpShape
from featurize.run.job import UNUSED_DUMPS, WITHOUT_STATES, FeaturizeJob, FeaturizeSummary, Reporter
from featurize.run.launch import remove_store, write_store
from featurize.run.plan import FeaturizePlan, plan_featurize
from featurize.run.recipe import make_encoder
from featurize.run.units import UnitWork, read_unit, to_unit_features
from featurize.store.manifest import Unit
from featurize.store.writer import UnitFeatures

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1024
"""Samples that are tokenized together when they are matched with dumps."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What vLLM leaves out: the norm of the last layer, and the likelihood."""

    norm: nn.Module
    backbone: Backbone


def import_features(
    job: FeaturizeJob,
    folder: Path,
    reporter: Reporter,
    *,
    layers: Sequence[int] | None = None,
    skips_missing: bool = False,
    overwrite: bool = False,
    strict: bool = False,
) -> FeaturizeSummary:
    """Write the store that `run_job` would write, from hidden states of vLLM.

    Units that an earlier run has finished are kept.

    Args:
        job: the dataset, the backbone that vLLM ran, and which features to store.
        folder: the dumps (see `featurize.run.dumps`).
        reporter: follows the run.
        layers: what vLLM's `eagle_aux_hidden_state_layer_ids` named; None: `featurize.layers`.
        skips_missing: leave out samples without states, and count them.
        overwrite: delete the store that is there.
        strict: refuse problem ids that several statements share.

    Raises:
        CriticError: dumps that cannot be used, or that are not of this backbone.
        DataError: a sample without states (names file and line, and what the closest dump has).
    """
    reporter.note(f"planning: features in {job.store_dir}")
    whole = plan_featurize(job)
    whole.check_samples(strict=strict)
    dumps = Dumps.open(folder, _shape_of(whole, layers))
    encoder = make_encoder(job, load_tokenizer(whole.source, job.backbone))
    is_kept, num_unused = _match(whole, dumps, encoder, skips_missing=skips_missing)
    origin = {"from": "vllm extract_hidden_states", "dumps": len(dumps.files)}
    origin |= {"layers": list(dumps.shape.layers), "digest": dumps.digest}
    plan = whole.to_import(is_kept, origin)
    if overwrite:
        remove_store(job)
    elif (manifest := plan.finished) is not None:
        return FeaturizeSummary.of_finished(job, manifest)
    reporter.planned(plan)
    spec = replace(plan.recipe.spec, answers=encoder.suffix.answers)
    finish = functools.cache(lambda: _load_finish(plan))  # no weights where no unit is missing
    tokens = 0

    def make(number: int) -> tuple[UnitFeatures, dict[str, int]]:
        work = read_unit(number, np.arange(*plan.units[number]), plan.index, encoder)
        features = _features(work, dumps, spec, finish(), plan.recipe.num_layers)
        return to_unit_features(work, features, plan.recipe), work.counts

    def on_unit(_done: int, unit: Unit) -> None:
        nonlocal tokens
        tokens += unit.counts["unique_tokens"]
        reporter.advance(tokens)

    def total(units: Iterable[Unit]) -> dict[str, int]:
        left = {WITHOUT_STATES: int((~is_kept).sum()), UNUSED_DUMPS: num_unused}
        return plan.total_counts(units) | {name: count for name, count in left.items() if count}

    return write_store(job, plan.store_plan, make, total, on_unit)


def _shape_of(plan: FeaturizePlan, layers: Sequence[int] | None) -> DumpShape:
    """The shape of dumps with those layers; CriticError if features need another layer."""
    recipe = plan.recipe
    needed = set(recipe.spec.layers) | ({recipe.num_layers} if recipe.spec.columns else set())
    given = tuple(sorted(needed)) if layers is None else tuple(layers)
    if list(given) != resolve_layers(given, recipe.num_layers):
        raise CriticError(
            f"--layer {', '.join(map(str, given))}: vLLM writes layers in ascending order, from 0"
            f" to {recipe.num_layers}; name them so"
        )
    if missing := sorted(needed - set(given)):
        why = "featurize.layers" if missing[0] in recipe.spec.layers else "the likelihood"
        raise CriticError(
            f"--layer {', '.join(map(str, given))}: has no layer {missing[0]}, which {why} needs;"
            " have vLLM write it, or do without"
        )
    return DumpShape(layers=given, width=recipe.hidden_size, dtype=recipe.compute_dtype)


# --- which sample has which dump


def _match(
    plan: FeaturizePlan, dumps: Dumps, encoder: SampleEncoder, *, skips_missing: bool
) -> tuple[Bools, int]:
    """Look for the dump of every sample.

    Returns which samples have one, [rows], and the number of dumps that no sample needs.

    Raises:
        DataError: a sample has none and may not be left out, or no sample has one.
    """
    is_kept = np.zeros(len(plan.index), bool)
    used: set[Path] = set()
    faults: list[str] = []
    for row, (location, ids) in enumerate(_all_ids(plan, encoder)):
        file = dumps.find(ids)
        if file is None:
            faults.append(_fault(location, ids, dumps))
            continue
        is_kept[row] = True
        used.add(file)
    if faults and not (skips_missing and used):
        raise DataError(faults)
    if faults:
        logger.warning("%d samples are left out; the first: %s", len(faults), faults[0])
    return is_kept, len(set(dumps.files) - used)


def _all_ids(plan: FeaturizePlan, encoder: SampleEncoder) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Place and token ids of every sample, with what follows its output, in the index's order."""
    for start in range(0, len(plan.index), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(plan.index)))
        work = read_unit(0, rows, plan.index, encoder)
        for sample, prompt, output in zip(work.samples, work.prompts, work.outputs, strict=True):
            ids = (*prompt.ids, *output.ids, *encoder.suffix.ids)
            yield f"{sample.location}: {sample.task_id!r}", ids


def _fault(location: str, ids: Sequence[int], dumps: Dumps) -> str:
    file, shared, length = dumps.closest(ids)
    if shared == length:
        reason = (
            f"{file.name} has states of its first {shared} only (the last sampled token has none);"
            " send prompt and output to vLLM as a prompt, or give --skip-missing"
        )
    else:
        reason = (
            f"{file.name}, the closest, has another token at place {shared}; vLLM must get the"
            " token ids that `prompt` and the tokenizer give, or give --skip-missing"
        )
    return f"{location}: no dump begins with its {len(ids)} tokens: {reason}"


# --- from states to features


def _load_finish(plan: FeaturizePlan) -> Finish | None:
    """Load the final norm and, for the likelihood, the lm_head; one block comes along.

    None where only layers below the last are stored.
    """
    job, spec = plan.job, plan.recipe.spec
    has_columns = bool(spec.columns)
    if not has_columns and plan.recipe.num_layers not in spec.layers:
        return None
    backbone = load_backbone(
        plan.source,
        job.backbone,
        device=resolve_device(job.runtime.device),
        dtype=plan.recipe.compute_dtype,
        deepest_layer=1,
        with_lm_head=has_columns,
        is_plain=True,
    )
    ids = torch.tensor([[0, 1, 2, 3]], device=backbone.device)
    norm = find_final_norm(backbone.decoder, backbone.blocks, ids)
    return Finish(norm=norm, backbone=backbone)


def _features(
    work: UnitWork, dumps: Dumps, spec: FeatureSpec, finish: Finish | None, num_layers: int
) -> Features:
    """The features of a unit, each row from its own dump."""
    rows = {
        row: _row_features(group.take([place]), dumps, spec, finish, num_layers)
        for group in work.grouping.groups
        for place, row in enumerate(group.rows)
    }
    found = [rows[row] for row in sorted(rows)]
    likelihood = [row.likelihood for row in found if row.likelihood is not None]
    return Features(
        tensors={
            name: torch.cat([row.tensors[name] for row in found]) for name in found[0].tensors
        },
        likelihood=torch.cat(likelihood) if likelihood else None,
    )


@torch.inference_mode()
def _row_features(
    single: PromptGroup, dumps: Dumps, spec: FeatureSpec, finish: Finish | None, num_layers: int
) -> Features:
    ids = single.prompt + single.outputs[0]
    file = dumps.find(ids)
    assert file is not None, "its sample was matched"
    device = torch.device("cpu") if finish is None else finish.backbone.device
    states: dict[int, Tensor] = {
        layer: found[None].to(device) for layer, found in dumps.read(file, len(ids)).items()
    }
    if finish is not None and num_layers in states:
        states[num_layers] = finish.norm(states[num_layers])
    backbone = None if finish is None else finish.backbone
    features = features_of_states(states, make_padded([single], device), spec, backbone)
    return Features(
        tensors={name: tensor.cpu() for name, tensor in features.tensors.items()},
        likelihood=None if features.likelihood is None else features.likelihood.cpu(),
    )
