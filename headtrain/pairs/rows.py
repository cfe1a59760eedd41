"""What pairs are drawn by: codes, weights and masks of the rows of a sample table."""

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Bools, Ints
from featurize.errors import CriticError
from featurize.store.samples import statement_codes
from headtrain.features.samples import RankedStrings, rank_strings
from headtrain.pairs.sampler import PairError
from headtrain.settings import PairwiseSettings

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Name of a missing difficulty in the settings."""

WEIGHT_STEPS = 10_000
"""Weights are rounded to this fraction of the largest."""


def is_labelled(samples: pa.Table) -> Bools:
    """Mask of the rows with a label, [rows]."""
    return np.asarray(pc.is_valid(samples["is_correct"]).to_numpy(), bool)


def is_one_of(problems: RankedStrings, names: Collection[str]) -> Bools:
    """Mask of the rows of the named problems, [rows]."""
    is_named = pc.is_in(problems.names, value_set=pa.array(list(names), pa.string()))
    return np.append(is_named.to_numpy(zero_copy_only=False).astype(bool), False)[problems.codes]


def class_codes(samples: pa.Table, pairwise: PairwiseSettings) -> Ints:
    """Code of what both sides of a pair must share, [rows].

    That is the language, the statement, and if they are matched the length bin and the author.
    """
    languages = rank_strings(samples["language"]).codes + 1  # 0: null
    classes = _join(languages, statement_codes(samples))
    if pairwise.matches_length:
        lengths = samples["output_tokens"].to_numpy().astype(np.int64)
        classes = _join(classes, lengths // pairwise.length_bin_tokens)
    return _join(classes, _authors(samples)) if "author" in pairwise.match else classes


def output_codes(samples: pa.Table) -> Ints | None:
    """Code of each output's tokens within its prompt, [rows]; None in a table without texts.

    An index knows the texts only: those that differ may still be cut to the same tokens.
    """
    if "feature_row" in samples.column_names:
        return np.asarray(samples["feature_row"].to_numpy(), np.int64)
    if "output_key" in samples.column_names:
        keys = samples["output_key"].combine_chunks().dictionary_encode()
        return np.asarray(keys.indices.to_numpy(), np.int64)
    return None


def difficulty_weights(difficulties: RankedStrings, pairwise: PairwiseSettings) -> Ints:
    """Integer weight of each row, [rows]; 0 excludes the sample."""
    wanted = pairwise.difficulties
    if wanted is None:
        return np.ones(len(difficulties.codes), np.int64)
    shares = wanted if isinstance(wanted, dict) else dict.fromkeys(wanted, 1.0)
    largest = max(shares.values())
    names = [*difficulties.names.to_pylist(), UNKNOWN]  # code -1, no difficulty, is the last
    if missing := [name for name, share in shares.items() if share and name not in names]:
        logger.warning(
            "data_sampling.pairwise.difficulties: no sample is %r; there are %s",
            missing[0],
            ", ".join(names),
        )

    def to_weight(name: str) -> int:
        share = shares.get(name, 0.0)
        return max(1, round(share / largest * WEIGHT_STEPS)) if share else 0

    return np.array([to_weight(name) for name in names], np.int64)[difficulties.codes]


def _authors(samples: pa.Table) -> Ints:
    """Code of each row's author, [rows]; each row without an author has a code of its own.

    Raises:
        PairError: no sample has an author.
    """
    if "author" not in samples.column_names:
        raise PairError(
            "data_sampling.pairwise.match is author, but no sample has one; give the dataset "
            "metadata.author (or generator, model, response_model) and run critic featurize "
            "again, or drop author from match"
        )
    authors = rank_strings(samples["author"])
    own = len(authors.names) + np.arange(samples.num_rows)
    return np.where(authors.codes < 0, own, authors.codes)


def _join(codes: Ints, others: Ints) -> Ints:
    """Join two codes into one, in the order of the first and then the second."""
    return np.asarray(codes * (int(others.max(initial=0)) + 1) + others)


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """The train problems that a head does not train on; `train_holdout` in head.json."""

    share: float
    """Share of the problems, as in the settings."""
    boundary: str
    """A problem is held out if the hash of its id is at most this."""

    def contains(self, problem_id: str) -> bool:
        """Whether a problem is held out."""
        return _hash(problem_id) <= self.boundary

    def mask(self, problem_ids: pa.ChunkedArray) -> Bools:
        """Whether the problem of each row is held out, [rows]."""
        problems = rank_strings(problem_ids)
        held = [name is not None and self.contains(name) for name in problems.names.to_pylist()]
        return np.array([*held, False])[problems.codes]


def choose_holdout(problem_ids: Collection[str], share: float) -> Holdout | None:
    """Hold out this share of the problems, at least one and never all; None for a share of 0.

    Raises:
        CriticError: there are fewer than two problems.
    """
    if not share:
        return None
    hashes = sorted(_hash(name) for name in set(problem_ids))
    if len(hashes) < 2:
        raise CriticError(
            f"evaluation.train_holdout {share} needs two train problems, there is {len(hashes)}; "
            "set it to 0"
        )
    number = min(max(1, round(share * len(hashes))), len(hashes) - 1)
    return Holdout(share=share, boundary=hashes[number - 1])


def labelled_problems(samples: pa.Table) -> list[str]:
    """Return the sorted ids of the problems with both labels for one statement."""
    statements = pa.array(statement_codes(samples))
    groups = pa.table([samples["problem_id"], statements, samples["is_correct"]], ["id", "s", "y"])
    found = groups.group_by(["id", "s"]).aggregate([("y", "min"), ("y", "max")])
    has_both = pc.and_(pc.invert(found["y_min"]), found["y_max"])  # null where there is no label
    return sorted(set(found["id"].filter(has_both).to_pylist()))


def _hash(problem_id: str) -> str:
    return hashlib.sha256(problem_id.encode()).hexdigest()
