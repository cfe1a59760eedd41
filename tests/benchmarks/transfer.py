"""Prints how heads trained on one dataset order the pairs of others, beside untrained judges.

    .venv/bin/python tests/benchmarks/transfer.py --heads HEADS --store mbpp=STORE --store x=STORE

HEADS has a folder `<dataset>.<recipe>` per head; each STORE is the valid split of a dataset, and
all have the recipe that the heads were trained with. A cell is the accuracy over problems with the
95% interval of a bootstrap over problems. `+ logprob` adds the z-scores of the head's value and of
the mean log-probability: fused late, with a sign fixed beforehand.

A second table has, for heads that `critic train-head --distance` made, the share of a dataset's
outputs that are farther from the head's train set than 90% of that, and the AUC of telling them
from the valid outputs of the head's own dataset by the distance alone.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurize.arrays import Floats, Floats32
from featurize.store import FeatureStore
from headtrain.evaluation.shortcuts import shortcut_scores
from headtrain.features.samples import read_labelled_samples
from headtrain.head.checkpoint import TrainedHead, load_head
from headtrain.metrics.bootstrap import Interval, resample_accuracies
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts
from tests.benchmarks.measuring import print_header, print_row

UNTRAINED = ("longer_is_correct", "logprob_mean", "logprob_sum", "probability_of_yes")
ROUNDS, CONFIDENCE, SEED = 2000, 0.95, 42


def main() -> None:
    options = read_options()
    heads = {path.name: load_head(path / "best") for path in sorted(options.heads.glob("*.*"))}
    stores = {name: FeatureStore.open(Path(path)) for name, path in options.store}
    table = {name: judge(store, heads) for name, store in stores.items()}
    print_header("judge", *table)
    for row in next(iter(table.values())):
        print_row(row, *(to_cell(column.get(row)) for column in table.values()))
    print_distances(heads, stores)


def print_distances(heads: Mapping[str, TrainedHead], stores: Mapping[str, FeatureStore]) -> None:
    """Print how far each store is from the train set of each head that knows it."""
    print()
    print_header("distance to the train set of", *stores)
    for name, head in heads.items():
        home = stores.get(name.partition(".")[0])
        if (distance := head.read_distance()) is None or home is None:
            continue
        shares = {place: head.distances(store, distance) for place, store in stores.items()}
        own = head.distances(home, distance)
        cells = [f"{(found > 0.9).mean():.2f} ({auc(own, found):.2f})" for found in shares.values()]
        print_row(name, *cells)


def auc(own: Floats32, other: Floats32) -> float:
    """Return the chance that one of `other` is farther than one of `own`; a tie counts one half."""
    order = np.sort(own)
    below, up_to = (np.searchsorted(order, other, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(own))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=Path, required=True, help="folder of heads")
    parser.add_argument(
        "--store",
        action="append",
        required=True,
        type=lambda text: tuple(text.split("=", 1)),
        metavar="NAME=STORE",
    )
    return parser.parse_args()


def judge(store: FeatureStore, heads: Mapping[str, TrainedHead]) -> dict[str, Interval]:
    """Measure all judges on the same pairs of a store."""
    labelled = read_labelled_samples(store)
    rows = labelled.table_rows
    untrained = shortcut_scores(store.samples.take(pa.array(rows)))
    scores = {name: untrained[name] for name in UNTRAINED if name in untrained}
    for name, head in heads.items():
        values = np.asarray(head.score(store), np.float64)[rows]
        scores[name] = values
        if "logprob_mean" in untrained:
            scores[f"{name} + logprob"] = to_z(values) + to_z(untrained["logprob_mean"])
    counts = {
        name: pairwise_counts(
            ScoredSamples(
                scores=found,
                is_correct=labelled.is_correct,
                problem=labelled.problems,
                output_tokens=labelled.output_tokens,
                equal_pairs=labelled.equal_pairs,
            )
        )
        for name, found in scores.items()
    }
    accuracies = resample_accuracies(counts, rounds=ROUNDS, seed=SEED)
    return {name: found.over_problems.interval(CONFIDENCE) for name, found in accuracies.items()}


def to_z(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def to_cell(found: Interval | None) -> str:
    return "-" if found is None else str(found)


if __name__ == "__main__":
    main()
