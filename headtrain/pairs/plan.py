"""Plans what a head is trained on: the pairs, their samples, and the problems held out.

`critic featurize --pairs` plans over the dataset's index, stores only the samples of the plan, and
the plan with them; `critic train-head` reads it from there. Planning over the store of the whole
dataset gives the same pairs, because both tables have the same rows in the same order (of content,
see docs/format.md).
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.arrays import Ints
from featurize.io.files import digest
from featurize.store.samples import (
    SHARED_IDS_REMEDY,
    PlannedPairs,
    SharedIds,
    find_shared_ids,
    read_pairs,
    statement_codes,
)
from headtrain.features.samples import LabelledSamples, rank_strings, read_labelled_samples
from headtrain.pairs.rows import (
    Holdout,
    choose_holdout,
    class_codes,
    difficulty_weights,
    is_labelled,
    is_one_of,
    labelled_problems,
    output_codes,
)
from headtrain.pairs.sampler import PairError, PairPlan, sample_pairs
from headtrain.settings import DataSamplingSettings, PairwiseSettings

if TYPE_CHECKING:
    from featurize.run.plan import Choose, Selection
    from featurize.store import FeatureStore

logger = logging.getLogger(__name__)

_COUNTS = ("num_problems", "num_possible", "num_left_out")
"""Numbers of a plan that are stored with it."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Pairs of rows of a sample table, and the rows that are only scored."""

    pairs: PairPlan
    holdout: Holdout | None
    held_out: Ints
    """Labelled rows of the problems held out."""
    settings: Mapping[str, Any]
    """All settings that determine the plan."""

    def to_planned(self) -> PlannedPairs:
        """Convert to the form that a feature store keeps."""
        record = {
            "settings": dict(self.settings),
            **{name: getattr(self.pairs, name) for name in _COUNTS},
            # NOTE: only where there are some, so that stores keep the fingerprint they had.
            **({"num_equal": self.pairs.num_equal} if self.pairs.num_equal else {}),
            "holdout": asdict(self.holdout) if self.holdout else None,
        }
        return PlannedPairs(
            correct=self.pairs.correct, incorrect=self.pairs.incorrect, record=record
        )


def plan_training(
    samples: pa.Table, sampling: DataSamplingSettings, *, train_holdout: float = 0.0
) -> TrainingPlan:
    """Draw pairs of a sample table, without the problems excluded or held out.

    A table that was stored for planned pairs returns those, if the settings are the same.
    """
    settings = selection_settings(sampling, train_holdout)
    excluded = read_excluded_problems(sampling.pairwise)
    problems = sorted(set(labelled_problems(samples)) - set(excluded))
    planned = read_pairs(samples)
    if planned is not None and planned.record["settings"] != settings:
        _warn_of_other_settings(planned.record["settings"], settings)
        planned = None
    if planned is None:
        holdout = choose_holdout(problems, train_holdout)
        held = _held_out(problems, holdout)
        pairs = _plan_within_statements(samples, sampling, [*excluded, *held])
    else:
        record = planned.record
        holdout = Holdout(**record["holdout"]) if record["holdout"] else None
        held = _held_out(problems, holdout)
        pairs = PairPlan(
            correct=planned.correct,
            incorrect=planned.incorrect,
            num_equal=record.get("num_equal", 0),
            **{name: record[name] for name in _COUNTS},
        )
        pairs = _without_equal(samples, pairs)
    is_held = is_labelled(samples) & is_one_of(rank_strings(samples["problem_id"]), held)
    return TrainingPlan(
        pairs=pairs, holdout=holdout, held_out=np.flatnonzero(is_held), settings=settings
    )


def _plan_within_statements(
    samples: pa.Table, sampling: DataSamplingSettings, excluded: Collection[str]
) -> PairPlan:
    try:
        return plan_pairs(samples, sampling, excluded)
    except PairError as error:
        if (shared := find_shared_ids(samples)) is None:
            raise
        raise PairError(f"{error}; {shared}: {SHARED_IDS_REMEDY}") from error


def plan_pairs(
    samples: pa.Table, sampling: DataSamplingSettings, excluded: Collection[str] = ()
) -> PairPlan:
    """Draw the pairs that the settings describe, as rows of the table.

    The table has problem_id, language, difficulty and is_correct, and to match
    lengths output_tokens. `excluded` are ids of problems.

    Raises:
        PairError: the settings leave no pair.
    """
    pairwise = sampling.pairwise
    problems = rank_strings(samples["problem_id"])
    labelled = is_labelled(samples)
    weights = difficulty_weights(rank_strings(samples["difficulty"]), pairwise)
    is_allowed = (weights > 0) & ~is_one_of(problems, excluded)
    rows = np.flatnonzero(labelled & is_allowed)
    num_left_out = int(labelled.sum()) - len(rows)
    if num_left_out and not len(rows):
        raise PairError(
            f"data_sampling.pairwise leaves out all {num_left_out} labelled samples: difficulties "
            f"{pairwise.difficulties} and {len(excluded)} excluded problems; allow more"
        )
    labels = pc.fill_null(samples["is_correct"], False).to_numpy()
    outputs = output_codes(samples)
    sources = rank_strings(samples["source"]).codes if pairwise.balance == "source" else None
    plan = sample_pairs(
        problems.codes[rows],
        labels[rows],
        pairwise.n_pairs,
        seed=sampling.seed,
        strategy=pairwise.strategy,
        max_pairs_per_problem=pairwise.max_pairs_per_problem,
        classes=class_codes(samples, pairwise)[rows],
        weights=weights[rows],
        outputs=None if outputs is None else outputs[rows],
        sources=None if sources is None else sources[rows],
    )
    return replace(
        plan,
        correct=rows[plan.correct],
        incorrect=rows[plan.incorrect],
        num_left_out=num_left_out,
    )


def pair_settings(sampling: DataSamplingSettings) -> dict[str, Any]:
    """Return everything that determines the pairs apart from the samples, as JSON."""
    pairwise = asdict(sampling.pairwise)
    pairwise["length_matched"] = sampling.pairwise.matches_length
    if not sampling.pairwise.matches_length:
        del pairwise["length_bin_tokens"]
    # `match` is left out where the older settings say the same: records of pairs stay equal
    del pairwise["match"]
    if sampling.pairwise.balance is None:  # for the same reason
        del pairwise["balance"]
    if "author" in sampling.pairwise.match:
        pairwise["match"] = ["author"]
    if isinstance(sampling.pairwise.difficulties, tuple):
        pairwise["difficulties"] = list(sampling.pairwise.difficulties)
    excluded = read_excluded_problems(sampling.pairwise)
    pairwise["exclude_problems"] = digest(sorted(excluded)) if excluded else None
    return {"seed": sampling.seed, "pairwise": pairwise}


def read_excluded_problems(pairwise: PairwiseSettings) -> tuple[str, ...]:
    """Return the ids of exclude_problems, from the settings or from the file they name."""
    names = pairwise.exclude_problems
    if names is None:
        return ()
    if isinstance(names, str):
        names = tuple(Path(names).read_text(encoding="utf-8").splitlines())
    return tuple(name.strip() for name in names if name.strip())


def _held_out(problems: Collection[str], holdout: Holdout | None) -> list[str]:
    return [name for name in problems if holdout is not None and holdout.contains(name)]


def _without_equal(samples: pa.Table, pairs: PairPlan) -> PairPlan:
    """Leave out planned pairs whose sides have the same tokens or other statements.

    Raises:
        PairError: no pair is left.
    """
    outputs, statements = output_codes(samples), statement_codes(samples)
    is_same = statements[pairs.correct] == statements[pairs.incorrect]
    is_equal = np.zeros(len(pairs.correct), bool)
    if outputs is not None:
        is_equal = outputs[pairs.correct] == outputs[pairs.incorrect]
    kept = np.flatnonzero(is_same & ~is_equal)
    if len(kept) == len(is_same):
        return pairs
    if not is_same.all():
        logger.warning(
            "%d of the planned pairs have two different statements and are left out",
            int((~is_same).sum()),
        )
    if not len(kept):
        raise PairError(
            f"all {len(is_same):,} planned pairs have the same tokens on both sides or two "
            "different statements; raise dataset.max_length, or check problem ids and labels"
        )
    return replace(
        pairs,
        correct=pairs.correct[kept],
        incorrect=pairs.incorrect[kept],
        num_problems=len(pc.unique(samples["problem_id"].take(pa.array(pairs.correct[kept])))),
        num_equal=pairs.num_equal + int(is_equal.sum()),
    )


def _warn_of_other_settings(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Name the settings of `made` that differ, such as `n_pairs 4000`."""
    flat, other = ({**one, **one["pairwise"]} for one in (made, wanted))
    different = [
        f"{name} {flat[name]}"
        for name in flat
        if name != "pairwise" and flat[name] != other.get(name)
    ]
    logger.warning(
        "the store holds only the samples of other pairs (made with %s); the new pairs are drawn"
        " from these samples alone",
        ", ".join(different),
    )


def selection_settings(sampling: DataSamplingSettings, train_holdout: float) -> dict[str, Any]:
    """All that a plan depends on, apart from the samples."""
    return {**pair_settings(sampling), "train_holdout": train_holdout}


def pair_planner(sampling: DataSamplingSettings, train_holdout: float) -> "Choose":
    """Return what plans, over an index, the pairs that train-head draws with these settings."""

    def choose(table: pa.Table, count_outputs: Callable[[], Ints]) -> "Selection":
        from featurize.run.plan import Selection

        if sampling.pairwise.matches_length:
            table = table.append_column("output_tokens", pa.array(count_outputs()))
        plan = plan_training(table, sampling, train_holdout=train_holdout)
        return Selection(pairs=plan.to_planned(), also=plan.held_out)

    return choose


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The pairs of a train store."""

    samples: LabelledSamples
    """The samples of the pairs; nothing else is read from the store."""
    plan: PairPlan
    """Pairs of indices into `samples`."""
    holdout: Holdout | None
    """The problems that are only scored."""
    held_out: LabelledSamples
    """The labelled samples of those problems."""
    shared_ids: SharedIds | None = None
    """The problem ids that several statements share."""

    def describe(self) -> dict[str, Any]:
        """Count pairs and samples, and measure whether length alone separates the labels."""
        plan, samples = self.plan, self.samples
        longer = samples.output_tokens[plan.correct] - samples.output_tokens[plan.incorrect]
        return {
            "num_pairs": len(plan.correct),
            "num_possible_pairs": plan.num_possible,
            "num_problems": plan.num_problems,
            "num_samples": len(samples),
            "num_unlabelled": samples.num_unlabelled,
            "num_left_out": plan.num_left_out - len(self.held_out),
            "num_held_out": len(self.held_out),
            "num_equal_pairs": plan.num_equal,
            "num_shared_ids": self.shared_ids.num_problems if self.shared_ids else 0,
            "mean_length_difference": float(longer.mean()),
            "longer_is_correct": float((longer > 0).mean() + (longer == 0).mean() / 2),
        }

    def checksum(self) -> str:
        """SHA-256 of the pairs, as rows of the store's sample table."""
        content = hashlib.sha256()
        for indices in (self.plan.correct, self.plan.incorrect):
            content.update(self.samples.table_rows[indices].astype("<i8").tobytes())
        return content.hexdigest()


def read_training_data(
    store: "FeatureStore", sampling: DataSamplingSettings, *, train_holdout: float = 0.0
) -> TrainingData:
    """Draw the pairs of a store, without the problems excluded or held out.

    Raises:
        PairError: the store holds no pair, or the settings leave none.
    """
    samples = read_labelled_samples(store)
    try:
        training = plan_training(store.samples, sampling, train_holdout=train_holdout)
    except PairError as error:
        raise PairError(f"{store.path}: {error}") from error
    pairs = training.pairs  # of rows of the store
    is_kept = np.zeros(store.samples.num_rows, bool)
    is_kept[np.concatenate([pairs.correct, pairs.incorrect])] = True
    kept = samples.take(is_kept[samples.table_rows])
    index = np.empty(store.samples.num_rows, np.int64)  # of a row in `kept`
    index[kept.table_rows] = np.arange(len(kept))
    if (shared := find_shared_ids(store.samples)) is not None:
        logger.warning("%s: %s; %s", store.path, shared, SHARED_IDS_REMEDY)
    if pairs.num_equal:
        logger.warning(
            "%s: %d pairs are left out: both sides have the same tokens, after outputs are cut at"
            " dataset.max_length",
            store.path,
            pairs.num_equal,
        )
    return TrainingData(
        samples=kept,
        plan=replace(pairs, correct=index[pairs.correct], incorrect=index[pairs.incorrect]),
        holdout=training.holdout,
        held_out=samples.take(np.isin(samples.table_rows, training.held_out)),
        shared_ids=shared,
    )
