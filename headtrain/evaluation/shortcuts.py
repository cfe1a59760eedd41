"""Shortcuts: cheap judges that a head has to beat, of length, likelihood, author and n-grams."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy.special import expit

from featurize.arrays import Floats, Ints
from featurize.store.samples import ANSWER_COLUMNS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

AUTHOR_KNOWN = "author_known"
"""The shortcut that knows who wrote an output, and the author's success on train."""

ANSWER_JUDGE = "probability_of_yes"
"""P(Yes) / (P(Yes) + P(No)): the LLM's own answer to the question after the output."""

LIKELIHOOD_JUDGES = ("logprob_mean", "logprob_sum")
"""Columns of a sample table with likelihood: mean and sum over the output tokens."""

NGRAMS = "bag_of_ngrams"
NUM_COLUMNS = 2**18
STRENGTHS = (0.003, 0.03, 0.3, 3.0)
"""Inverse regularisation strengths; one is chosen on a fifth of the train problems."""

HELD_OUT = 5


def shortcut_scores(samples: pa.Table) -> dict[str, Floats]:
    """Get the scores of each judge, [n], from the sample table of a feature store.

    A missing or empty column is left out. A single null becomes NaN, which
    `ScoredSamples` refuses with its index.
    """
    length = _column(samples, "output_tokens")
    scores = {"longer_is_correct": length, "shorter_is_correct": -length}
    for name in LIKELIHOOD_JUDGES:
        if name in samples.column_names and samples[name].null_count < samples.num_rows:
            scores[name] = _column(samples, name)
    if set(ANSWER_COLUMNS) <= set(samples.column_names):
        yes, no = (_column(samples, name) for name in ANSWER_COLUMNS)
        scores[ANSWER_JUDGE] = expit(yes - no)
    return scores


def _column(samples: pa.Table, name: str) -> Floats:
    return np.asarray(samples[name].to_numpy(), dtype=np.float64)


class NgramJudge:
    """A judge of n-gram counts, trained on the pairs the head was trained on: style, not meaning.

    Each output becomes counts of its tokens (words, numbers, single symbols) and bigrams, damped by
    log(1 + count) and hashed to 2**18 columns. A logistic regression without intercept on the
    difference of each pair's rows learns which n-grams correct outputs have more often: the
    Bradley-Terry loss of the head, with a linear judge that does not read the prompt.
    """

    def __init__(self, weights: Floats) -> None:
        self.weights = weights

    @classmethod
    def train(
        cls, outputs: Sequence[str], correct: Ints, incorrect: Ints, problems: Ints, *, seed: int
    ) -> "NgramJudge":
        """Train on pairs; `correct` and `incorrect` [pairs] are indices of `outputs`.

        `problems` [pairs] are their problems. The regularisation that is best on held-out problems
        is used for the final fit on all pairs.
        """
        rows = count_ngrams(outputs)
        difference = rows[correct] - rows[incorrect]
        generator = np.random.default_rng(seed)
        names = np.unique(problems)
        aside = np.isin(problems, generator.permutation(names)[: len(names) // HELD_OUT])
        strength = STRENGTHS[1]
        if aside.any() and not aside.all():
            strength = max(
                STRENGTHS,
                key=lambda tried: float(
                    np.mean(difference[aside] @ _fit(difference[~aside], tried) > 0)
                ),
            )
        return cls(_fit(difference, strength))

    def score(self, outputs: Sequence[str]) -> Floats:
        """Score outputs, [n]; higher is more likely correct."""
        return np.asarray(count_ngrams(outputs) @ self.weights, dtype=np.float64)


def count_ngrams(outputs: Sequence[str]) -> "csr_matrix":
    """Count the n-grams of outputs, damped, [n, 2**18]."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=NUM_COLUMNS,
        token_pattern=r"\w+|[^\w\s]",  # symbols are tokens too: brackets, operators
        ngram_range=(1, 2),
        lowercase=False,
        alternate_sign=False,
        norm=None,
    )
    rows: Any = vectorizer.transform(outputs)
    rows.data = np.log1p(rows.data)
    return rows


def _fit(difference: "csr_matrix", strength: float) -> Floats:
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression

    # NOTE: scikit-learn needs both classes, so each pair is added in both orders.
    rows = vstack([difference, -difference]).tocsr()
    labels = np.repeat([True, False], difference.shape[0])
    used = np.flatnonzero(np.bincount(difference.indices, minlength=difference.shape[1]))
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=200)
    model.fit(rows[:, used], labels)
    weights = np.zeros(difference.shape[1])
    weights[used] = model.coef_[0]
    return weights
