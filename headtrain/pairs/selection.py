"""The samples that `critic featurize --pairs` keeps: those of the pairs train-head will draw."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from featurize.arrays import Ints
from featurize.run.selection import Choose, Selection
from headtrain.pairs.plan import pair_settings, plan_training
from headtrain.settings import DataSamplingSettings


def selection_settings(sampling: DataSamplingSettings, train_holdout: float) -> dict[str, Any]:
    """All that the selection of `pair_planner` depends on, apart from the dataset."""
    return {"pairs": pair_settings(sampling), "train_holdout": train_holdout}


def pair_planner(sampling: DataSamplingSettings, train_holdout: float) -> Choose:
    """Return what plans, over an index, the pairs that train-head draws with these settings."""

    def choose(table: pa.Table, count_outputs: Callable[[], Ints]) -> Selection:
        if sampling.pairwise.matches_length:
            table = table.append_column("output_tokens", pa.array(count_outputs()))
        plan = plan_training(table, sampling, train_holdout=train_holdout)
        return Selection(pairs=plan.to_planned(), also=plan.held_out)

    return choose
