"""Stage 1's job: claim units, run the backbone over them, write, resume, and account for it all."""

import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from featurize.data.prompt import Encoder
from featurize.job import FeaturizePlan
from featurize.model import attention
from featurize.model.backbone import load_backbone, load_tokenizer
from featurize.model.device import resolve_device
from featurize.model.engine import Choice, Engine, choose_forward
from featurize.ranks import Ranks
from featurize.store import StoreWriter, Unit
from featurize.units import UnitWork, read_unit, sum_counts, to_unit_features


class Reporter(Protocol):
    """Hears how the job goes on."""

    def note(self, text: str) -> None:
        """One line worth reading."""

    def advance(self, tokens: int) -> None:
        """Unique tokens all ranks have computed by now."""


@dataclass(frozen=True, kw_only=True)
class FeaturizeSummary:
    """What became of every row that was read."""

    store_dir: Path
    counts: dict[str, int]
    num_resumed_units: int
    seconds: float
    was_up_to_date: bool

    def describe(self) -> dict[str, Any]:
        """The lines of the table shown at the end; every row that was read is in it once."""
        counts = self.counts
        return {
            "samples read": counts["read"],
            "featurized": counts["feature_rows"],
            "duplicates of those": counts["duplicates"],
            "not selected": counts["not_selected"],
            "prompts cut (samples)": counts["prompts_truncated"],
            "outputs cut": counts["outputs_truncated"],
            "prompts": counts["prompts"],
            "unique tokens": counts["unique_tokens"],
            "tokens without sharing": counts["all_tokens"],
            "units resumed": self.num_resumed_units,
            "seconds": round(self.seconds, 1),
        }


def run_featurize(plan: FeaturizePlan, ranks: Ranks, reporter: Reporter) -> FeaturizeSummary:
    """Computes the units that are missing; with several ranks, this rank's share of them.

    Raises:
        ValueError: bad data, NaN features, a store of another make in the folder.
    """
    started = time.monotonic()
    if plan.finished is not None:
        return _summary(plan, plan.finished.counts, len(plan.units), started, is_done=True)
    writer = _make_writer(plan)
    pending: list[int] = ranks.share("pending", lambda: _begin(plan, writer))
    if pending:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(_threads_per_rank(ranks.world_size))
        _compute(plan, ranks, reporter, writer, pending)
    ranks.wait_for_all("finished")
    counts: dict[str, int] = {}
    if ranks.is_first:
        units = writer.finished_units()
        counts = _total_counts(plan, list(units.values()))
        writer.finish(counts, units)
    return _summary(plan, counts, len(plan.units) - len(pending), started, is_done=False)


def _compute(
    plan: FeaturizePlan,
    ranks: Ranks,
    reporter: Reporter,
    writer: StoreWriter,
    pending: list[int],
) -> None:
    """Reads the next unit and writes the last one while the backbone runs over this one."""
    encoder = _make_encoder(plan)
    engine = _make_engine(plan, ranks, reporter, encoder)

    def read_next() -> UnitWork | None:
        claimed = ranks.claim()
        if claimed >= len(pending):
            return None
        return _read(plan, encoder, pending[claimed])

    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as store:
        next_unit = reader.submit(read_next)
        writing: Future[Unit] | None = None
        while (work := next_unit.result()) is not None:
            next_unit = reader.submit(read_next)
            features = engine.run(
                work.grouping.groups,
                work.grouping.num_rows,
                lambda tokens: reporter.advance(ranks.count("tokens", tokens)),
            )
            if writing is not None:
                writing.result()
            unit = to_unit_features(work, features, plan.recipe)
            writing = store.submit(writer.write_unit, work.number, unit, work.counts)
        if writing is not None:
            writing.result()


def _make_engine(plan: FeaturizePlan, ranks: Ranks, reporter: Reporter, encoder: Encoder) -> Engine:
    """Loads the backbone and settles which forward runs, on the first rank for all."""
    job, recipe = plan.job, plan.recipe
    attention.register()
    device = resolve_device(job.runtime.device, ranks.local_rank)
    backbone = load_backbone(
        plan.source,
        job.backbone,
        device=device,
        dtype=recipe.compute_dtype,
        deepest_layer=recipe.spec.deepest(recipe.num_layers),
        with_lm_head=recipe.spec.likelihood,
    )

    def choose() -> dict[str, str]:
        if job.featurize.forward != "auto":
            return {"forward": job.featurize.forward, "reason": "featurize.forward asks for it"}
        groups = _read(plan, encoder, 0).grouping.groups
        choice = choose_forward(backbone, recipe.spec, groups, recipe.compute_dtype)
        return {"forward": choice.forward, "reason": choice.reason}

    choice = Choice(**ranks.share("choice", choose))
    if ranks.is_first:
        reporter.note(f"forward: {choice.forward} ({choice.reason})")
    return Engine(backbone, recipe.spec, choice.forward, job.featurize.token_budget)


def _make_encoder(plan: FeaturizePlan) -> Encoder:
    return Encoder(
        tokenizer=load_tokenizer(plan.source, plan.job.backbone),
        max_length=plan.job.dataset.max_length,
        max_prompt_length=plan.job.dataset.prompt_limit,
    )


def _make_writer(plan: FeaturizePlan) -> StoreWriter:
    return StoreWriter(
        plan.job.store_dir,
        {
            "fingerprint": plan.fingerprint,
            "recipe_fingerprint": plan.recipe.fingerprint,
            "recipe": plan.recipe.fields,
            "num_units": len(plan.units),
        },
    )


def _begin(plan: FeaturizePlan, writer: StoreWriter) -> list[int]:
    """Claims the folder and lists the units that are not finished."""
    writer.begin()
    finished = writer.finished_units()
    return [number for number in range(len(plan.units)) if number not in finished]


def _read(plan: FeaturizePlan, encoder: Encoder, number: int) -> UnitWork:
    start, stop = plan.units[number]
    return read_unit(number, np.arange(start, stop), plan.index, encoder)


def remove_store(store_dir: Path) -> None:
    """Deletes a store, manifest first, so that no reader finds half of one."""
    (store_dir / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(store_dir, ignore_errors=True)


def _total_counts(plan: FeaturizePlan, units: list[Unit]) -> dict[str, int]:
    """Every row that was read is in exactly one of featurized, duplicates and not_selected."""
    total = sum_counts([unit.counts for unit in units])
    total["read"] = plan.num_read
    total["not_selected"] = plan.num_read - len(plan.index)
    return total


def _summary(
    plan: FeaturizePlan, counts: dict[str, int], num_resumed: int, started: float, *, is_done: bool
) -> FeaturizeSummary:
    return FeaturizeSummary(
        store_dir=plan.job.store_dir,
        counts=counts,
        num_resumed_units=num_resumed,
        seconds=time.monotonic() - started,
        was_up_to_date=is_done,
    )


def _threads_per_rank(world_size: int) -> int:
    """An even share of this machine's cores: two processes of one thread beat one of two."""
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    return max(1, len(os.sched_getaffinity(0)) // local_size)
