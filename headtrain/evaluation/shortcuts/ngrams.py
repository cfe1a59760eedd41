"""A bag of token n-grams, trained on the pairs the head was trained on: style without meaning.

Every output becomes counts of its tokens (words, numbers, single signs) and of neighbouring two,
damped by log(1 + count) and hashed to 2**18 columns. A logistic regression without intercept
learns from the difference of each pair's two rows which n-grams the correct outputs have more
often: the Bradley-Terry loss of the head, on a linear judge that cannot read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.arrays import Floats, Ints

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


NAME = "bag_of_ngrams"
NUM_COLUMNS = 2**18
STRENGTHS = (0.003, 0.03, 0.3, 3.0)
"""Inverse regularisation, chosen on a fifth of the train problems."""

HELD_OUT = 5


class NgramJudge:
    """A linear judge of n-grams."""

    def __init__(self, weights: Floats) -> None:
        self.weights = weights

    @classmethod
    def train(
        cls, outputs: Sequence[str], correct: Ints, incorrect: Ints, problems: Ints, *, seed: int
    ) -> "NgramJudge":
        """Learn from pairs; `correct` and `incorrect` [pairs] are places in `outputs`.

        `problems` [pairs] tells whose they are: the regularisation is the one that does best on
        problems kept aside, and the judge is then trained on all.
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
        """Scores of outputs, [n]; higher is likelier correct."""
        return np.asarray(count_ngrams(outputs) @ self.weights, dtype=np.float64)


def count_ngrams(outputs: Sequence[str]) -> "csr_matrix":
    """Damped counts of the n-grams, [n, 2**18]."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=NUM_COLUMNS,
        token_pattern=r"\w+|[^\w\s]",  # a sign is a token too: brackets, operators
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

    # NOTE: scikit-learn wants both classes; a pair turned round says the same with the other sign.
    rows = vstack([difference, -difference]).tocsr()
    labels = np.repeat([True, False], difference.shape[0])
    used = np.flatnonzero(np.bincount(difference.indices, minlength=difference.shape[1]))
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=200)
    model.fit(rows[:, used], labels)
    weights = np.zeros(difference.shape[1])
    weights[used] = model.coef_[0]
    return weights
