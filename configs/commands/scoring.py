"""The commands that score texts without labels: `critic score` and `critic serve`."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from configs.commands.features import featurize_file
from configs.console import CountProgress, console, refuse_torchrun, rows_table
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import HeadProject
    from featurize.data.index import DatasetIndex
    from headtrain.scoring.along import By
    from headtrain.scoring.along_rows import AlongRows

logger = logging.getLogger(__name__)


def score(
    chosen: Chosen,
    file: str,
    out: str,
    head: str | None = None,
    prefix: str = "",
    best: bool = False,
    along: str | None = None,
    distance: bool = False,
    repair: bool = False,
) -> None:
    """Copy the rows of a file and add a score, probability and rank to each."""
    console().print(f"score: {file}")
    refuse_torchrun("score")
    from configs.project import HeadProject
    from headtrain.evaluation.findings import MOST_FAR, unlike_train
    from headtrain.scoring.along_rows import ALONG, POSITIONS
    from headtrain.scoring.best import write_best
    from headtrain.scoring.files import check_output, to_field_names, to_rows, write_rows
    from headtrain.scoring.scorer import Scorer, describe_scores

    path, by = _check_options(out, best=best, along=along, distance=distance)
    opened = HeadProject.load(head, chosen)
    if by is not None:
        _check_prefixes(opened)
    decision = opened.project.find_decision(opened.head)  # fails before hours of work
    scorer = Scorer(opened.head, decision.calibration, has_distance=distance)
    index = opened.project.index_files(file, needs_labels=False)
    added = [] if by is None else [ALONG, POSITIONS]
    names = to_field_names(index.table, [*scorer.field_names, *added], prefix)
    if not best:
        check_output(path, index.sources, names)
    store = featurize_file(opened, index, repair=repair)
    scores = scorer.score_store(store)
    if scores.share_far is not None and scores.share_far > MOST_FAR:
        logger.warning("%s %s", opened.head.path, unlike_train(scores.share_far))
    prefixes = None if by is None else _values_along(opened, index, by)
    fields = scores.to_fields() | ({} if prefixes is None else prefixes.to_fields())
    rows = to_rows(index.table, fields, prefix)
    if best:
        chosen_rows = write_best(path, index.sources, rows, names[0])
        console().print(rows_table(f"best of {file} in {out}", chosen_rows.describe()))
        return
    num_rows = write_rows(path, index.sources, rows)
    summary = describe_scores(scores, store.samples, num_rows)
    if prefixes is not None:
        summary["prefixes scored"] = prefixes.num_prefixes
    console().print(rows_table(f"scores of {opened.head.path} in {out}", summary))


def _check_options(
    out: str, *, best: bool, along: str | None, distance: bool
) -> "tuple[Path, By | None]":
    """Find where to write and where prefixes end, before anything is opened.

    Raises:
        CriticError: options that exclude each other, or cannot be used.
    """
    from featurize.errors import CriticError
    from headtrain.scoring.along import to_by
    from headtrain.scoring.files import to_output

    path = Path(out) if best else to_output(out)
    by = None if along is None else to_by(along)
    if best and by is not None:
        raise CriticError("--along adds fields, which --best does not write; give one of the two")
    if best and distance:
        raise CriticError("--distance adds a field, which --best does not write; leave one out")
    return path, by


def _check_prefixes(opened: "HeadProject") -> None:
    """Raise CriticError if the head reads what only a whole output has."""
    from headtrain.scoring.along import check_prefixes

    has_end = opened.project.settings.prompt.end != "none"
    check_prefixes(opened.head.record.columns.tensors, has_end=has_end)


def _values_along(opened: "HeadProject", index: "DatasetIndex", by: "By") -> "AlongRows":
    """Values along the samples of a file, with the backbone in this process."""
    from headtrain.scoring.along_rows import judge_along
    from headtrain.scoring.critic import Critic

    project = opened.project
    critic = Critic.of(
        opened.head,
        opened.places,
        device=project.settings.runtime.device,
        cache_dir=project.layout.cache_dir,
    )
    with CountProgress("values along", "samples") as count:
        return judge_along(critic, index, by, count)


def serve(
    head: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    backbone: str | None = None,
    scale: str = "logit",
    window_ms: float = 5.0,
    max_waiting: int = 4096,
    policy_template: str = "{prompt}",
    end: list[str] | None = None,
) -> None:
    """Answer over HTTP: values, rewards and a page; a token is read from CRITIC_TOKEN."""
    console().print(f"serve: {head}")
    refuse_torchrun("serve")
    try:
        from headtrain.scoring.server.run import Server
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install critic[serve]") from error
    from headtrain.head.checkpoint import load_head
    from headtrain.scoring.critic import Critic
    from headtrain.scoring.judged import to_scale
    from headtrain.scoring.server.app import is_loopback
    from headtrain.scoring.server.service import Limits
    from headtrain.scoring.texts import TextRules

    load_head(head)  # a wrong folder ends the command before anything listens
    token = os.environ.get("CRITIC_TOKEN", "")
    server = Server.open(
        lambda: Critic.load(head, device=device, backbone=backbone),
        model=Path(head).name,
        host=host,
        port=port,
        scale=to_scale(scale),
        limits=Limits(window=window_ms / 1000, max_waiting=max_waiting),
        rules=TextRules(policy_template=policy_template, ends=tuple(end or ())),
        token=token,
    )
    if not token and not is_loopback(host):
        console().print("warning: anyone who reaches this address may use it (no CRITIC_TOKEN)")
    console().print(f"listening on {server.url}, loading the backbone ({server.url}/ready)")
    server.run()
    console().print(rows_table("served", server.service.describe()))
