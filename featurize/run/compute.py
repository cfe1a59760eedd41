"""Compute the units of a plan: claim one, run the backbone over it, write it, count its rows."""

import contextlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from featurize.data.encoder import SampleEncoder
from featurize.data.token_counts import tokenizer_threads
from featurize.errors import CriticError
from featurize.model import attention
from featurize.model.agreement import Choice, check_padded, choose_forward
from featurize.model.backbone import load_backbone
from featurize.model.compiling import compile_if_it_agrees, why_not_compiled
from featurize.model.device import extends_memory, resolve_device, use_device
from featurize.model.engine import Engine, Work
from featurize.model.forward import Features
from featurize.model.sharing import plan_sharing
from featurize.model.source import load_tokenizer
from featurize.run.job import FeaturizeSummary, Reporter
from featurize.run.plan import FeaturizePlan
from featurize.run.ranks import RankGroup, Ranks
from featurize.run.recipe import make_encoder
from featurize.run.units import (
    UnitWork,
    join_units,
    read_unit,
    split_features,
    to_unit_features,
)
from featurize.store.writer import StoreWriter, open_writer

PASSES_AT_ONCE = 4
"""Forward passes that are planned together on a GPU: at most one of them is short."""
SHARES = 4
"""Times each group of ranks reads units at least, so that none waits long for the last one."""


def compute(plan: FeaturizePlan, ranks: Ranks, reporter: Reporter) -> FeaturizeSummary:
    """Compute the units that are missing: all of them, or this rank's share.

    The caller holds the lock of the store (`sole_writer`). Only the first rank knows the counts
    of the whole run; on the others the summary has none.

    Raises:
        ValueError: bad data, NaN features, a different store in the folder.
    """
    started = time.monotonic()
    job = plan.job
    writer = open_writer(job.store_dir, plan.store_plan, job.writing_dir, is_thorough=job.repair)
    pending: list[int] = ranks.share("pending", writer.begin)
    if pending:
        if "OMP_NUM_THREADS" not in os.environ:
            # An even share of the cores: two processes of one thread beat one of two.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_size))
        sharing = plan_sharing(plan.job.distributed, ranks.world_size, ranks.local_size)
        group = RankGroup(ranks, sharing)
        device = resolve_device(plan.job.runtime.device, ranks.local_rank)
        with group.reports_lost_ranks(), extends_memory(device):
            _compute_units(plan, group, reporter, writer, pending)
    ranks.wait_for_all("finished")
    counts: dict[str, int] = {}
    if ranks.is_first:
        units = writer.finished_units()
        counts = plan.total_counts(units.values())
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
    """Reads the next units and writes the last ones while the backbone runs over these."""
    encoder = make_encoder(plan.job, load_tokenizer(plan.source, plan.job.backbone))
    engine = _make_engine(plan, group, reporter, encoder)
    device = engine.backbone.device
    num_at_once = _units_at_once(plan, group, device, len(pending))

    def read_next() -> tuple[list[UnitWork], Work] | None:
        claims = iter(group.claim, None)
        claimed = itertools.takewhile(lambda number: number < len(pending), claims)
        numbers = [pending[number] for number in itertools.islice(claimed, num_at_once)]
        units = [_read(plan, encoder, number) for number in numbers]
        return (units, engine.prepare(*join_units(units))) if units else None

    def write(units: list[UnitWork], features: Features) -> None:
        for work, own in zip(units, split_features(features, units), strict=True):
            writer.write_unit(work.number, to_unit_features(work, own, plan.recipe), work.counts)

    def on_tokens(tokens: int) -> None:
        if group.is_leader:
            reporter.advance(group.ranks.count("tokens", tokens))

    # Elsewhere the cores are busy.
    threads = tokenizer_threads() if device.type == "cuda" else contextlib.nullcontext()
    with (
        threads,
        ThreadPoolExecutor(1, "reader", use_device, (device,)) as reader,
        ThreadPoolExecutor(1, "writer") as store,
    ):
        being_computed: deque[list[UnitWork]] = deque()

        def works() -> Iterator[Work]:
            following = reader.submit(read_next)
            while (found := following.result()) is not None:
                following = reader.submit(read_next)
                units, work = found
                being_computed.append(units)
                yield work

        writing: Future[None] | None = None
        for features in engine.stream(works(), on_tokens):
            units = being_computed.popleft()
            if not group.is_leader:
                continue
            if writing is not None:
                writing.result()
            writing = store.submit(write, units, features)
        if writing is not None:
            writing.result()
    group.disconnect()


def _units_at_once(
    plan: FeaturizePlan, group: RankGroup, device: torch.device, num_pending: int
) -> int:
    """Units whose forward passes are cut together, so that few passes on a GPU are short.

    One on a CPU, where the last bits of a feature depend on the length of the pass.
    """
    if device.type != "cuda":
        return 1
    tokens = PASSES_AT_ONCE * plan.token_budget.tokens
    num_groups = group.ranks.world_size // group.sharing.size
    share = num_pending // (SHARES * num_groups)
    return max(1, min(math.ceil(tokens / plan.job.featurize.unit_tokens), share))


def _make_engine(
    plan: FeaturizePlan, group: RankGroup, reporter: Reporter, encoder: SampleEncoder
) -> Engine:
    """Loads the backbone and settles which forward runs, in the first group for all."""
    job, recipe, ranks = plan.job, plan.recipe, group.ranks
    spec = replace(recipe.spec, answers=encoder.suffix.answers)
    attention.register()
    device = resolve_device(job.runtime.device, ranks.local_rank)
    group.connect(device)
    backbone = load_backbone(
        plan.source,
        job.backbone,
        device=device,
        dtype=recipe.compute_dtype,
        deepest_layer=recipe.spec.deepest(recipe.num_layers),
        with_lm_head=bool(recipe.spec.columns),
        sharing=group.sharing,
    )
    group.loaded()

    def choose() -> dict[str, str]:
        asked = job.featurize.forward
        groups = _read(plan, encoder, 0).grouping.groups
        if asked == "padded":
            found = check_padded(backbone, spec, groups, recipe.compute_dtype)
            return {"forward": asked, "reason": f"featurize.forward asks for it; {found}"}
        choice = choose_forward(backbone, spec, groups, recipe.compute_dtype)
        if asked == "packed" and choice.forward != asked:
            raise CriticError(
                f"featurize.forward is packed, but {choice.reason}; set it to auto or padded"
            )
        return {"forward": choice.forward, "reason": choice.reason}

    # The ranks of the first group compare the forwards together; its leader speaks for all.
    chosen = choose() if group.number == 0 else {}
    choice = Choice(**ranks.share("choice", lambda: chosen))
    if ranks.is_first:
        reporter.note(f"forward: {choice.forward} ({choice.reason})")
    budget, may_halve = plan.token_budget.tokens, not group.sharing.is_shared
    engine = Engine(backbone, spec, choice.forward, budget, may_halve=may_halve)
    if job.featurize.compile:
        reason = _compile(plan, group, encoder, engine)
        if ranks.is_first:
            reporter.note(reason)
    return engine


def _compile(plan: FeaturizePlan, group: RankGroup, encoder: SampleEncoder, engine: Engine) -> str:
    """Compiles the blocks of the backbone where that helps; says what was done."""
    backbone = engine.backbone
    refusal = why_not_compiled(
        backbone.device,
        is_shared=group.sharing.is_shared,
        is_quantized=plan.job.backbone.quantization is not None,
    )
    if refusal is not None:
        return f"featurize.compile has no effect: {refusal}"
    groups, dtype = _read(plan, encoder, 0).grouping.groups, plan.recipe.compute_dtype
    return compile_if_it_agrees(backbone, engine.spec, engine.forward, groups, dtype)


def _read(plan: FeaturizePlan, encoder: SampleEncoder, number: int) -> UnitWork:
    return read_unit(number, np.arange(*plan.units[number]), plan.index, encoder)
