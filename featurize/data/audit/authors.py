"""The authors of a split, how often they are right, and the accuracy of the author alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurize.data.audit.labels import MOST_SLICES
from featurize.data.audit.lengths import measure_pairs
from featurize.data.audit.rows import LabelledRows
from featurize.data.audit.section import Columns, Section
from featurize.data.authors import SEPARATOR, AuthorPrior


@dataclass(frozen=True, kw_only=True)
class Author:
    """The labelled samples of one author, alone or with others."""

    name: str
    num_samples: int
    share_correct: float
    above_problem: float
    """Mean of label minus the pass rate of its problem."""


@dataclass(frozen=True, kw_only=True)
class AuthorAudit:
    """What the author says about correctness."""

    authors: tuple[Author, ...]
    """Most samples first."""
    num_unknown: int
    """Labelled samples without an author."""
    over_pairs: float | None
    """Accuracy of the author's success on all other problems; ties count half, 0.5 is chance."""
    over_problems: float | None
    """The same, mean over problems."""


def audit_authors(table: pa.Table, labelled: LabelledRows) -> AuthorAudit | None:
    """Audit the authors of labelled samples; None if no sample has one."""
    if "author" not in table.column_names or not len(labelled.rows):
        return None
    texts = table["author"].take(pa.array(labelled.rows)).to_pylist()
    prior = AuthorPrior.fit(texts, labelled.is_correct, labelled.groups)
    scores = prior.score_left_out(texts, labelled.is_correct, labelled.groups)
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.int64)
    pairs = measure_pairs(labelled, labelled.groups, ranks)
    return AuthorAudit(
        authors=_count(texts, labelled, prior),
        num_unknown=texts.count(None),
        over_pairs=pairs.longer_over_pairs,
        over_problems=pairs.longer_over_problems,
    )


def _count(
    texts: Sequence[str | None], labelled: LabelledRows, prior: AuthorPrior
) -> tuple[Author, ...]:
    num_correct = dict.fromkeys(prior.residuals, 0)
    for text, is_correct in zip(texts, labelled.is_correct.tolist(), strict=True):
        for name in text.split(SEPARATOR) if text else ():
            num_correct[name] += is_correct
    authors = [
        Author(
            name=name,
            num_samples=count,
            share_correct=num_correct[name] / count,
            above_problem=total / count,
        )
        for name, (total, count) in prior.residuals.items()
    ]
    return tuple(sorted(authors, key=lambda author: (-author.num_samples, author.name)))


def show_authors(audit: AuthorAudit) -> Section:
    """Show the authors and the accuracy of the author alone."""
    left_out = len(audit.authors) - MOST_SLICES
    accuracy = "the author alone has no pair to order"
    if audit.over_pairs is not None:
        accuracy = (
            f"the author alone orders {audit.over_pairs:.1%} of pairs, "
            f"{audit.over_problems:.1%} per problem"
        )
    more = f" (the largest; {left_out:,} more)" if left_out > 0 else ""
    return Section(
        tables=[
            Columns(
                title=f"by author{more}: {accuracy}",
                columns=("author", "samples", "share correct", "above its problem"),
                rows=[
                    (author.name, author.num_samples, author.share_correct, author.above_problem)
                    for author in audit.authors[:MOST_SLICES]
                ],
            )
        ]
    )
