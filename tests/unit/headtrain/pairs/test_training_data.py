from pathlib import Path

import numpy as np
import pytest
from headtrain.pairs.training_data import read_training_data

from headtrain.settings import DataSamplingSettings, PairwiseSettings
from tests.support.synthetic_stores import write_store


def test_what_the_pairs_say_of_length_is_what_their_samples_have(tmp_path: Path) -> None:
    store = write_store(tmp_path, seed=3)
    sampling = DataSamplingSettings(pairwise=PairwiseSettings(n_pairs=40))
    data = read_training_data(store, sampling)
    rows = store.samples.to_pylist()
    apart = []
    for pair in zip(data.plan.correct, data.plan.incorrect, strict=True):
        right, wrong = (rows[data.samples.table_rows[place]] for place in pair)
        assert (right["is_correct"], wrong["is_correct"]) == (True, False)
        assert right["problem_id"] == wrong["problem_id"]
        apart.append(right["output_tokens"] - wrong["output_tokens"])
    told = data.describe()
    assert told["num_pairs"] == len(apart) == 40
    assert told["mean_length_difference"] == pytest.approx(np.mean(apart))
    wins = [1 if gap > 0 else 0.5 if gap == 0 else 0 for gap in apart]
    assert told["longer_is_correct"] == pytest.approx(np.mean(wins))
    assert told["mean_length_difference"] != 0
    assert told["longer_is_correct"] != 0.5
