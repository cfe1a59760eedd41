"""Steps of `critic score`: what a head says of the rows of a file."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.console import CountProgress
from configs.head_project import HeadProject
from configs.steps.features import featurize_file

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pyarrow as pa

    from featurize.data.index import DatasetIndex
    from headtrain.scoring.verdict import By


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What `critic score` writes."""

    file: str
    """Rows to score: a file or a glob."""
    out: str
    prefix: str
    """Before the names of the new fields."""
    is_best: bool
    """Write the best sample of each task, not all rows."""
    along: str | None
    """Where the prefixes end whose values are added."""
    repair: bool
    has_distance: bool = False
    """Add how far each sample is from the head's train samples."""
    overwrite: bool = False
    """Replace a file that is not known to be a result of the command."""


def score_file(
    request: ScoreRequest, head: str | None, config: Path | None, overrides: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Score the rows of a file by a head and write them; returns a title and rows to show.

    Raises:
        CriticError: options that exclude each other.
        ValueError: the head, the file or the place to write cannot be used.
    """
    from headtrain.evaluation.findings import MOST_FAR, unlike_train
    from headtrain.scoring.files import (
        blank_rows,
        check_output,
        choose_best,
        to_rows,
        write_best,
        write_rows,
    )
    from headtrain.scoring.scorer import ALONG, POSITIONS, Scorer, describe_scores

    path, by = _check_request(request)
    opened = HeadProject.load(head, config, overrides)
    if by is not None:
        _check_prefixes(opened)
    decision = opened.project.find_decision(opened.head)  # fails before hours of work
    scorer = Scorer(opened.head, decision.calibration, has_distance=request.has_distance)
    index = opened.project.index_files(request.file, needs_labels=False)
    added = [] if by is None else [ALONG, POSITIONS]
    check = choose_best if request.is_best else check_output
    blank = blank_rows(index.table, [*scorer.field_names, *added], request.prefix)
    check(path, index.sources, blank)
    store = featurize_file(opened, index, repair=request.repair)
    scores = scorer.score_store(store)
    if scores.share_far is not None and scores.share_far > MOST_FAR:
        logger.warning("%s %s", opened.head.path, unlike_train(scores.share_far))
    along = {} if by is None else _values_along(opened, index, by)
    rows = to_rows(index.table, scores.to_fields() | along, request.prefix)
    if request.is_best:
        write_best(path, chosen := choose_best(path, index.sources, rows))
        return f"best of {request.file} in {request.out}", chosen.describe()
    num_rows = write_rows(path, index.sources, rows)
    summary = describe_scores(scores, store.samples, num_rows)
    if along:
        summary["prefixes scored"] = len(along[ALONG].flatten())
    return f"scores of {opened.head.path} in {request.out}", summary


def _check_request(request: ScoreRequest) -> "tuple[Path, By | None]":
    """Find where to write and where prefixes end, before anything is opened."""
    from featurize.errors import CriticError
    from headtrain.scoring.files import refuse_existing, to_output
    from headtrain.scoring.verdict import to_by

    path = Path(request.out)
    if not request.is_best:
        path = to_output(request.out, request.prefix, overwrite=request.overwrite)
    elif not request.overwrite:
        refuse_existing(path)
    by = None if request.along is None else to_by(request.along)
    if request.is_best and by is not None:
        raise CriticError("--along adds fields, which --best does not write; give one of the two")
    if request.is_best and request.has_distance:
        raise CriticError("--distance adds a field, which --best does not write; leave one out")
    return path, by


def _check_prefixes(opened: HeadProject) -> None:
    """Raise CriticError if the head reads what only a whole output has."""
    from headtrain.scoring.verdict import check_prefixes

    has_end = opened.project.settings.prompt.end != "none"
    check_prefixes(opened.head.record.columns.tensors, has_end=has_end)


def _values_along(
    opened: HeadProject, index: "DatasetIndex", by: "By"
) -> "dict[str, pa.ListArray]":
    """Values along the samples of a file, with the backbone in this process."""
    from headtrain.scoring.critic import Critic
    from headtrain.scoring.scorer import judge_along

    project = opened.project
    critic = Critic.of(
        opened.head,
        opened.places,
        device=project.settings.runtime.device,
        cache_dir=project.layout.cache_dir,
    )
    with CountProgress("values along", "samples") as count:
        return judge_along(critic, index, by, count)
