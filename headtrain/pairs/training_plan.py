"""Which pairs a head is trained on and which problems are held out of them, over any sample table.

`critic featurize --pairs` plans over the dataset's index and stores what the plan touches, with the
plan; `critic train-head` finds it there. Over the whole store of a dataset the plan is the same.
"""

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Ints
from featurize.store import PlannedPairs, read_pairs
from headtrain.pairs.holdout import Holdout, choose_holdout, labelled_problems
from headtrain.pairs.pair_plan import pair_settings, plan_pairs
from headtrain.pairs.sampler import PairPlan
from headtrain.settings import DataSamplingSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Pairs of rows of a sample table, and rows that are only scored."""

    pairs: PairPlan
    holdout: Holdout | None
    held_out: Ints
    """Labelled rows of the problems held out."""


def plan_training(
    samples: pa.Table,
    sampling: DataSamplingSettings,
    *,
    excluded: Collection[str] = (),
    train_holdout: float = 0.0,
) -> TrainingPlan:
    """Draw pairs of a table, none of them of a problem excluded or held out.

    A table that holds only the samples of planned pairs gives these, if the settings are the same.
    """
    settings = _all_settings(sampling, excluded, train_holdout)
    planned = read_pairs(samples)
    if planned is not None:
        if planned.record["settings"] == settings:
            return _from_planned(samples, planned)
        logger.warning(
            "the features are those of the samples that other pairs touch (made with %s); the pairs"
            " are drawn from these samples alone",
            _differing(planned.record["settings"], settings),
        )
    allowed = sorted(set(labelled_problems(samples)) - set(excluded))
    holdout = choose_holdout(allowed, train_holdout)
    held = [name for name in allowed if holdout is not None and holdout.contains(name)]
    return TrainingPlan(
        pairs=plan_pairs(samples, sampling, [*excluded, *held]),
        holdout=holdout,
        held_out=_labelled_rows(samples, held),
    )


def to_planned(
    plan: TrainingPlan,
    sampling: DataSamplingSettings,
    *,
    excluded: Collection[str],
    train_holdout: float,
) -> PlannedPairs:
    """A plan as a feature store keeps it."""
    record = {
        "settings": _all_settings(sampling, excluded, train_holdout),
        "num_problems": plan.pairs.num_problems,
        "num_possible": plan.pairs.num_possible,
        "num_left_out": plan.pairs.num_left_out,
        "holdout": asdict(plan.holdout) if plan.holdout else None,
    }
    return PlannedPairs(correct=plan.pairs.correct, incorrect=plan.pairs.incorrect, record=record)


def _from_planned(samples: pa.Table, planned: PlannedPairs) -> TrainingPlan:
    record = planned.record
    holdout = Holdout(**record["holdout"]) if record["holdout"] else None
    held = [
        name
        for name in labelled_problems(samples)
        if holdout is not None and holdout.contains(name)
    ]
    counts = {name: record[name] for name in ("num_problems", "num_possible", "num_left_out")}
    return TrainingPlan(
        pairs=PairPlan(correct=planned.correct, incorrect=planned.incorrect, **counts),
        holdout=holdout,
        held_out=_labelled_rows(samples, held),
    )


def _labelled_rows(samples: pa.Table, problem_ids: Collection[str]) -> Ints:
    if not problem_ids:
        return np.empty(0, np.int64)
    ids = samples["problem_id"].cast(pa.string())
    is_there = pc.is_in(ids, value_set=pa.array(list(problem_ids), pa.string()))
    return np.flatnonzero(pc.and_(is_there, pc.is_valid(samples["is_correct"])).to_numpy())


def _all_settings(
    sampling: DataSamplingSettings, excluded: Collection[str], train_holdout: float
) -> dict[str, Any]:
    return pair_settings(sampling, excluded) | {"train_holdout": train_holdout}


def _differing(made: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The settings of `made` that `wanted` does not have, as `n_pairs 4000`."""
    flat, other = ({**one, **one["pairwise"]} for one in (made, wanted))
    different = [f"{name} {flat[name]}" for name in flat if flat[name] != other.get(name)]
    return ", ".join(text for text in different if not text.startswith("pairwise "))
