"""Tables to draw pairs from, and the settings to draw them by."""

from typing import Any

import pyarrow as pa

from featurize.run.plan import Selection
from headtrain.pairs.plan import plan_training
from headtrain.settings import DataSamplingSettings, PairwiseSettings


def settings(n_pairs: int = 6, **pairwise: Any) -> DataSamplingSettings:
    return DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=n_pairs, **pairwise))


def make_table(num_problems: int = 4, num_samples: int = 12) -> pa.Table:
    """Problems 0, 2, .. are easy, the others hard; even samples are correct and short."""
    places = [(problem, number) for problem in range(num_problems) for number in range(num_samples)]
    return pa.table(
        {
            "problem_id": [f"p{problem}" for problem, _ in places],
            "language": [("c", "python")[number % 4 // 2] for _, number in places],
            "difficulty": [("easy", "hard")[problem % 2] for problem, _ in places],
            "is_correct": [number % 2 == 0 for _, number in places],
            "output_tokens": pa.array([10 * number for _, number in places], pa.int32()),
        }
    )


def chooser(sampling: DataSamplingSettings, train_holdout: float = 0.0) -> Any:
    def choose(table: pa.Table, count_outputs: Any) -> Selection:
        if sampling.pairwise.length_matched:
            table = table.append_column("output_tokens", pa.array(count_outputs()))
        plan = plan_training(table, sampling, train_holdout=train_holdout)
        return Selection(pairs=plan.to_planned(), also=plan.held_out)

    return choose
