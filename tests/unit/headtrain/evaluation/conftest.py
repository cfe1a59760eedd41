"""Simulated splits, and a shortcut for each."""

import pytest

from featurize.arrays import Floats
from headtrain.metrics.pairwise import ScoredSamples
from tests.support.simulated_splits import simulated


@pytest.fixture
def splits() -> dict[str, ScoredSamples]:
    return {"train": simulated(0, strength=2.0), "valid": simulated(1, strength=0.5)}


@pytest.fixture
def shortcuts(splits: dict[str, ScoredSamples]) -> dict[str, dict[str, Floats]]:
    return {name: {"longer": split.output_tokens * 1.0} for name, split in splits.items()}
