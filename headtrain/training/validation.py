"""How well a head in training ranks the outputs of problems it is not trained on."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featurize.arrays import Floats
from featurize.errors import CriticError
from featurize.store import FeatureStore
from headtrain.features.inputs import (
    ROWS_AT_ONCE,
    HeadInputs,
    InputColumns,
    LabelledSamples,
    read_head_inputs,
    read_labelled_samples,
)
from headtrain.features.memory import FeatureMemory
from headtrain.head.model import FeatureNormaliser, HeadModel
from headtrain.metrics.pairwise import (
    PairwiseAccuracy,
    PerProblem,
    ScoredSamples,
    pairwise_accuracy,
    pairwise_counts,
)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A fixed set of whole problems, read once and scored again and again."""

    inputs: HeadInputs
    """Samples with their normalised features."""

    def measure(self, model: HeadModel) -> PairwiseAccuracy:
        """Pairwise accuracy of the model without dropout, from ranks; ties count one half."""
        return pairwise_accuracy(self.count(model))

    def count(self, model: HeadModel) -> PerProblem:
        """Won comparisons of every problem."""
        return self.count_scores(self.score(model))

    @torch.no_grad()
    def score(self, model: HeadModel) -> Floats:
        """The model's value of every sample, [samples]."""
        was_training, device = model.training, next(model.buffers()).device
        model.eval()
        values = torch.cat(
            [
                model.judge(piece.to(device)).squeeze(-1).float()
                for piece in torch.split(self.inputs.features, ROWS_AT_ONCE)
            ]
        )  # [rows]
        model.train(was_training)
        return values.cpu().numpy().astype(np.float64)[self.inputs.rows]

    def count_scores(self, scores: Floats) -> PerProblem:
        """Won comparisons of every problem, by the given values, [samples]."""
        return count_wins(self.inputs.samples, scores)


def read_validation(
    store: FeatureStore,
    columns: InputColumns,
    *,
    limit: int | None,
    seed: int,
    device: torch.device,
    samples: LabelledSamples | None = None,
    normaliser: FeatureNormaliser | None = None,
    memory: FeatureMemory | None = None,
) -> Validation:
    """Read at most `limit` of the samples (default: all) of problems that have both labels."""
    if samples is None:
        samples = read_labelled_samples(store)
    samples = take_whole_problems(store, samples, limit=limit, seed=seed)
    inputs = read_head_inputs(store, columns, samples=samples, device=device, memory=memory)
    if normaliser is not None:
        normaliser.normalise_(inputs.features)
    return Validation(inputs=inputs)


def take_whole_problems(
    store: FeatureStore, samples: LabelledSamples, *, limit: int | None, seed: int
) -> LabelledSamples:
    """At most `limit` of the samples of a store, of problems that have both labels."""
    kept = choose_whole_problems(samples, limit, seed)
    if not len(kept):
        raise CriticError(
            f"{store.path}: no problem has both a correct and an incorrect output, so no head can "
            "be validated on it; name another dataset.validation"
        )
    return samples.take(kept)


def count_wins(samples: LabelledSamples, scores: Floats) -> PerProblem:
    """Won comparisons of every problem, by the scores of its samples, [samples]."""
    return pairwise_counts(
        ScoredSamples(
            scores=scores,
            is_correct=samples.is_correct,
            problem=samples.problems,
            output_tokens=samples.output_tokens,
        )
    )


def choose_whole_problems(
    samples: LabelledSamples, limit: int | None, seed: int
) -> npt.NDArray[np.int64]:
    """Places of the samples of randomly chosen problems, at most `limit` and one problem at least.

    Only problems with both labels are chosen: others say nothing about ranking.
    """
    num_problems = int(samples.problems.max(initial=-1)) + 1
    sizes = np.bincount(samples.problems, minlength=num_problems)
    num_correct = np.bincount(samples.problems[samples.is_correct], minlength=num_problems)
    useful = np.flatnonzero((num_correct > 0) & (num_correct < sizes))
    if limit is not None and int(sizes[useful].sum()) > limit:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(useful)
        chosen, left = [], limit
        for problem in order:
            if sizes[problem] <= left:
                chosen.append(problem)
                left -= int(sizes[problem])
        useful = np.array(chosen or [useful[np.argmin(sizes[useful])]])
    return np.flatnonzero(np.isin(samples.problems, useful))
