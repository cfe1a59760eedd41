"""Compute the units of a plan: claim one, run the backbone over it, write it, count its rows."""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from featurize.data.prompt import Encoder
from featurize.io.remote import is_remote
from featurize.model import attention
from featurize.model.backbone import load_backbone
from featurize.model.device import resolve_device
from featurize.model.engine import Choice, Engine, choose_forward
from featurize.model.sharing import plan_sharing
from featurize.model.source import load_tokenizer
from featurize.run.groups import RankGroup
from featurize.run.job import SHARED_IDS, FeaturizeSummary, Reporter
from featurize.run.plan import FeaturizePlan
from featurize.run.ranks import Ranks
from featurize.run.units import UnitWork, read_unit, sum_counts, to_unit_features
from featurize.store import RemoteStoreWriter, StoreWriter, Unit


def compute(plan: FeaturizePlan, ranks: Ranks, reporter: Reporter) -> FeaturizeSummary:
    """Compute the units that are missing: all of them, or this rank's share.

    The caller holds the lock of the store (`sole_writer`). Only the first rank knows the counts
    of the whole run; on the others the summary has none.

    Raises:
        ValueError: bad data, NaN features, a different store in the folder.
    """
    started = time.monotonic()
    writer = _make_writer(plan)
    pending: list[int] = ranks.share("pending", lambda: _begin(plan, reporter, writer))
    if pending:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(_threads_per_rank(ranks.local_size))
        sharing = plan_sharing(plan.job.distributed, ranks.world_size, ranks.local_size)
        group = RankGroup(ranks, sharing)
        with group.reports_lost_ranks():
            _compute_units(plan, group, reporter, writer, pending)
    ranks.wait_for_all("finished")
    counts: dict[str, int] = {}
    if ranks.is_first:
        units = writer.finished_units()
        counts = _total_counts(plan, list(units.values()))
        writer.finish(counts, units)
    return FeaturizeSummary(
        store_dir=plan.job.store_dir,
        counts=counts,
        num_resumed_units=len(plan.units) - len(pending),
        seconds=time.monotonic() - started,
    )


def _compute_units(
    plan: FeaturizePlan,
    group: RankGroup,
    reporter: Reporter,
    writer: StoreWriter,
    pending: list[int],
) -> None:
    """Reads the next unit and writes the last one while the backbone runs over this one."""
    encoder = _make_encoder(plan)
    engine = _make_engine(plan, group, reporter, encoder)

    def read_next() -> UnitWork | None:
        claimed = group.claim()
        if claimed >= len(pending):
            return None
        return _read(plan, encoder, pending[claimed])

    def on_tokens(tokens: int) -> None:
        if group.is_leader:
            reporter.advance(group.ranks.count("tokens", tokens))

    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as store:
        next_unit = reader.submit(read_next)
        writing: Future[Unit] | None = None
        while (work := next_unit.result()) is not None:
            next_unit = reader.submit(read_next)
            features = engine.run(work.grouping.groups, work.grouping.num_rows, on_tokens)
            if not group.is_leader:
                continue
            if writing is not None:
                writing.result()
            unit = to_unit_features(work, features, plan.recipe)
            writing = store.submit(writer.write_unit, work.number, unit, work.counts)
        if writing is not None:
            writing.result()
    group.disconnect()


def _make_engine(
    plan: FeaturizePlan, group: RankGroup, reporter: Reporter, encoder: Encoder
) -> Engine:
    """Loads the backbone and settles which forward runs, in the first group for all."""
    job, recipe, ranks = plan.job, plan.recipe, group.ranks
    attention.register()
    device = resolve_device(job.runtime.device, ranks.local_rank)
    group.connect(device)
    backbone = load_backbone(
        plan.source,
        job.backbone,
        device=device,
        dtype=recipe.compute_dtype,
        deepest_layer=recipe.spec.deepest(recipe.num_layers),
        with_lm_head=recipe.spec.likelihood,
        sharing=group.sharing,
    )

    def choose() -> dict[str, str]:
        if job.featurize.forward != "auto":
            return {"forward": job.featurize.forward, "reason": "featurize.forward asks for it"}
        groups = _read(plan, encoder, 0).grouping.groups
        choice = choose_forward(backbone, recipe.spec, groups, recipe.compute_dtype)
        return {"forward": choice.forward, "reason": choice.reason}

    # The ranks of the first group compare the forwards together; its leader speaks for all.
    chosen = choose() if group.number == 0 else {}
    choice = Choice(**ranks.share("choice", lambda: chosen))
    if ranks.is_first:
        reporter.note(f"forward: {choice.forward} ({choice.reason})")
    budget, may_halve = job.featurize.token_budget, not group.sharing.is_shared
    return Engine(backbone, recipe.spec, choice.forward, budget, may_halve=may_halve)


def _make_encoder(plan: FeaturizePlan) -> Encoder:
    return Encoder(
        tokenizer=load_tokenizer(plan.source, plan.job.backbone),
        max_length=plan.job.dataset.max_length,
        max_prompt_length=plan.job.dataset.prompt_limit,
    )


def _make_writer(plan: FeaturizePlan) -> StoreWriter:
    job = plan.job
    fields = {
        "fingerprint": plan.fingerprint,
        "recipe_fingerprint": plan.recipe.fingerprint,
        "recipe": plan.recipe.fields,
        "num_units": len(plan.units),
        "command": job.command,
    }
    if not is_remote(job.store_dir):
        return StoreWriter(job.writing_dir, fields)
    return RemoteStoreWriter(str(job.store_dir), fields, job.writing_dir, is_thorough=job.repair)


def _begin(plan: FeaturizePlan, reporter: Reporter, writer: StoreWriter) -> list[int]:
    """Claims the folder and lists the units that are not finished, or not whole any more."""
    writer.begin()
    finished = writer.finished_units()
    pending = [number for number in range(len(plan.units)) if number not in finished]
    if pending and writer.withdraw():
        first = ", ".join(map(str, pending[:5])) + (", ..." if len(pending) > 5 else "")
        reporter.note(f"damaged units of a finished store are made again: {first}")
    return pending


def _read(plan: FeaturizePlan, encoder: Encoder, number: int) -> UnitWork:
    start, stop = plan.units[number]
    return read_unit(number, np.arange(start, stop), plan.index, encoder)


def _total_counts(plan: FeaturizePlan, units: list[Unit]) -> dict[str, int]:
    """Every row that was read is in exactly one of featurized, duplicates and not_selected."""
    total = sum_counts([unit.counts for unit in units])
    total["read"] = plan.num_read
    total["not_selected"] = plan.num_read - len(plan.index)
    if plan.num_pairs is not None:
        total["pairs"] = plan.num_pairs
    if plan.shared_ids is not None:
        total[SHARED_IDS] = plan.shared_ids.num_problems
    return total


def _threads_per_rank(local_size: int) -> int:
    """An even share of this machine's cores: two processes of one thread beat one of two."""
    return max(1, len(os.sched_getaffinity(0)) // local_size)
