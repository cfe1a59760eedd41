"""What became of every row of a scored file."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headtrain.scoring.values import PROBABILITY, SCORE, SampleValues


def describe_scores(values: SampleValues, samples: pa.Table, num_rows: int) -> dict[str, Any]:
    """The lines of the table shown at the end; `samples` is the store's table."""
    scores, probabilities = values.columns[SCORE], values.columns[PROBABILITY]
    num_distinct = len(np.unique(samples["feature_row"].to_numpy()))
    return {
        "rows written": num_rows,
        "samples scored": samples.num_rows,
        "repeats of another sample, scored as it is": samples.num_rows - num_distinct,
        "judged by a prompt that was cut": pc.sum(samples["prompt_truncated"]).as_py(),
        "judged by an output that was cut": pc.sum(samples["output_truncated"]).as_py(),
        "problems": values.num_groups,
        "samples alone in their problem, of rank 1": values.num_alone,
        "lowest score": float(scores.min()),
        "highest score": float(scores.max()),
        "mean probability": float(probabilities.mean()),
    }
