"""Who wrote an output, a person or a model, and what that alone says about its correctness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featurize.arrays import Bools, Floats, Ints
from featurize.data.fields import Row, scalar_to_text, to_text

AUTHOR_FIELDS = ("author", "generator", "model", "response_model")
"""Fields of `metadata` that name the author; the first that has one is taken."""

SEPARATOR = "; "
"""Between the names of several authors of one output."""


def read_author(metadata: Row) -> str | None:
    """Return the author of a row, or several joined in order of their names; None if unknown.

    A field may hold one value or a list of values; an object is not taken for an author.

    Raises:
        RowFault: a name is no valid text.
    """
    for field in AUTHOR_FIELDS:
        value = metadata.get(field)
        values = value if isinstance(value, list) else [value]
        names = {name.strip() for each in values if (name := _to_name(each, field))}
        if names - {""}:
            return SEPARATOR.join(sorted(names - {""}))
    return None


def _to_name(value: object, field: str) -> str | None:
    if isinstance(value, (list, dict)):
        return None
    name = scalar_to_text(value)
    return None if name is None else to_text(name, f"metadata.{field}")


@dataclass(frozen=True, kw_only=True)
class AuthorPrior:
    """How much more often than others an author is right on the same problems."""

    residuals: Mapping[str, tuple[float, int]]
    """Sum of label - pass rate of its problem, and number of samples, by author."""

    @classmethod
    def fit(cls, authors: Sequence[str | None], is_correct: Bools, problems: Ints) -> "AuthorPrior":
        """Fit the prior on labelled samples; `problems` are codes from 0, [samples]."""
        return cls(residuals=_sum_by_author(authors, _residuals(is_correct, problems)))

    def score(self, authors: Sequence[str | None]) -> Floats:
        """Score samples by their authors, [samples]: the mean residual, 0 for unknown authors.

        Of several authors the mean is taken over those that are known.
        """
        means = {name: total / count for name, (total, count) in self.residuals.items()}
        found = {None: 0.0} | {text: _mean_of(text, means) for text in set(authors) if text}
        return np.array([found[text] for text in authors], np.float64)

    def score_left_out(
        self, authors: Sequence[str | None], is_correct: Bools, problems: Ints
    ) -> Floats:
        """Score the samples it was fitted on, each without the samples of its own problem."""
        residuals = _residuals(is_correct, problems)
        scores = np.zeros(len(authors))
        order = np.argsort(problems, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(problems[order])) + 1):
            own = [authors[row] for row in rows]
            held = _sum_by_author(own, residuals[rows])
            scores[rows] = self._without(held).score(own)
        return scores

    def _without(self, held: Mapping[str, tuple[float, int]]) -> "AuthorPrior":
        """Leave out samples; the result knows those of their authors who have others."""
        rest = {}
        for name, (total, count) in held.items():
            all_total, all_count = self.residuals[name]
            if all_count > count:
                rest[name] = (all_total - total, all_count - count)
        return AuthorPrior(residuals=rest)


def _residuals(is_correct: Bools, problems: Ints) -> Floats:
    """Label minus the pass rate of its problem, [samples]."""
    sizes = np.maximum(np.bincount(problems), 1)
    return np.asarray(is_correct - (np.bincount(problems, is_correct) / sizes)[problems])


def _sum_by_author(
    authors: Sequence[str | None], residuals: Floats
) -> dict[str, tuple[float, int]]:
    sums: dict[str, tuple[float, int]] = {}
    for text, residual in zip(authors, residuals.tolist(), strict=True):
        for name in text.split(SEPARATOR) if text else ():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + residual, count + 1)
    return sums


def _mean_of(text: str, means: Mapping[str, float]) -> float:
    known = [means[name] for name in text.split(SEPARATOR) if name in means]
    return sum(known) / len(known) if known else 0.0
