"""From a table of samples and the settings to the pairs that a head learns from.

The table may be a feature store's or a dataset's index: both have the same rows in the same order
(of content, see docs/format.md), so both give the same pairs.
"""

import logging
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Ints
from featurize.io.files import digest
from headtrain.features.columns import Ranks, rank_strings
from headtrain.pairs.sampler import PairError, PairPlan, sample_pairs
from headtrain.settings import DataSamplingSettings, PairwiseSettings

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""What a difficulty that is not given is called in the settings."""

WEIGHT_STEPS = 10_000
"""Weights count to this fraction of the largest."""


def plan_pairs(
    samples: pa.Table, sampling: DataSamplingSettings, excluded: Collection[str] = ()
) -> PairPlan:
    """Draw the pairs the settings ask for; the plan's indices are rows of the table.

    The table has problem_id, language, difficulty and is_correct, and for length_matched
    output_tokens. `excluded` are the ids that `read_excluded_problems` gave.
    """
    pairwise = sampling.pairwise
    problems = rank_strings(samples["problem_id"])
    weights = _difficulty_weights(rank_strings(samples["difficulty"]), pairwise)
    is_excluded = pc.is_in(problems.names, value_set=pa.array(list(excluded), pa.string()))
    is_labelled = pc.is_valid(samples["is_correct"]).to_numpy()
    is_candidate = (
        is_labelled
        & (weights > 0)
        & ~is_excluded.to_numpy(zero_copy_only=False).astype(bool)[problems.codes]
    )
    rows = np.flatnonzero(is_candidate)
    num_left_out = int(is_labelled.sum()) - len(rows)
    if num_left_out and not len(rows):
        raise PairError(
            f"data_sampling.pairwise leaves out all {num_left_out} labelled samples: difficulties "
            f"{pairwise.difficulties} and {len(excluded)} excluded problems; allow more"
        )
    labels = pc.fill_null(samples["is_correct"], False).to_numpy()
    plan = sample_pairs(
        problems.codes[rows],
        labels[rows],
        pairwise.n_pairs,
        seed=sampling.seed,
        strategy=pairwise.strategy,
        max_pairs_per_problem=pairwise.max_pairs_per_problem,
        classes=_classes(samples, pairwise)[rows],
        weights=weights[rows],
    )
    return replace(
        plan,
        correct=rows[plan.correct],
        incorrect=rows[plan.incorrect],
        num_left_out=num_left_out,
    )


def pair_settings(sampling: DataSamplingSettings, excluded: Collection[str]) -> dict[str, Any]:
    """All that decides a plan besides the samples, as JSON."""
    pairwise = asdict(sampling.pairwise)
    if not sampling.pairwise.length_matched:
        del pairwise["length_bin_tokens"]
    if isinstance(sampling.pairwise.difficulties, tuple):
        pairwise["difficulties"] = list(sampling.pairwise.difficulties)
    pairwise["exclude_problems"] = digest(sorted(excluded)) if excluded else None
    return {"seed": sampling.seed, "pairwise": pairwise}


def read_excluded_problems(pairwise: PairwiseSettings) -> tuple[str, ...]:
    """The ids of exclude_problems, from the settings or from the file they name."""
    names = pairwise.exclude_problems
    if names is None:
        return ()
    if isinstance(names, str):
        names = tuple(Path(names).read_text(encoding="utf-8").splitlines())
    return tuple(name.strip() for name in names if name.strip())


def _classes(samples: pa.Table, pairwise: PairwiseSettings) -> Ints:
    """Samples of one problem are compared only if they agree in this, [rows]."""
    languages = rank_strings(samples["language"]).codes + 1  # 0: not given
    if not pairwise.length_matched:
        return languages
    bins = samples["output_tokens"].to_numpy().astype(np.int64) // pairwise.length_bin_tokens
    return np.asarray(languages * (int(bins.max(initial=0)) + 1) + bins)


def _difficulty_weights(difficulties: Ranks, pairwise: PairwiseSettings) -> Ints:
    """Whole weight of each row, [rows]; 0 leaves the sample out."""
    wanted = pairwise.difficulties
    if wanted is None:
        return np.ones(len(difficulties.codes), np.int64)
    shares = wanted if isinstance(wanted, dict) else dict.fromkeys(wanted, 1.0)
    largest = max(shares.values())
    names = [*difficulties.names.to_pylist(), UNKNOWN]  # code -1, no difficulty, is the last
    if strange := [name for name, share in shares.items() if share and name not in names]:
        logger.warning(
            "data_sampling.pairwise.difficulties: no sample is %r; there are %s",
            strange[0],
            ", ".join(names),
        )

    def to_weight(name: str) -> int:
        share = shares.get(name, 0.0)
        return max(1, round(share / largest * WEIGHT_STEPS)) if share else 0

    weights: npt.NDArray[np.int64] = np.array([to_weight(name) for name in names], np.int64)
    return weights[difficulties.codes]
