"""The commands that score texts without labels: `critic score` and `critic serve`."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from configs.commands.features import featurize_file
from configs.console import CountProgress, console, refuse_torchrun, rows_table
from configs.options import Chosen

if TYPE_CHECKING:
    import pyarrow as pa

    from configs.project import HeadProject
    from featurize.data.index import DatasetIndex
    from headtrain.scoring.verdict import By

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
    overwrite: bool = False,
) -> None:
    """Copy the rows of a file and add a score, probability and rank to each."""
    console().print(f"score: {file}")
    refuse_torchrun("score")
    from configs.project import HeadProject
    from headtrain.evaluation.findings import MOST_FAR, unlike_train
    from headtrain.scoring import files
    from headtrain.scoring.scorer import ALONG, POSITIONS, Scorer, describe_scores

    path, by = _check_options(out, best=best, along=along, distance=distance)
    if not overwrite and (best or not files.is_scored(path, prefix)):
        files.refuse_existing(path)
    opened = HeadProject.load(head, chosen)
    if by is not None:
        _check_prefixes(opened)
    decision = opened.project.find_decision(opened.head)  # fails before hours of work
    scorer = Scorer(opened.head, decision.calibration, has_distance=distance)
    index = opened.project.index_files(file, needs_labels=False)
    added = [] if by is None else [ALONG, POSITIONS]
    check = files.choose_best if best else files.check_output
    check(path, index.sources, files.blank_rows(index.table, [*scorer.field_names, *added], prefix))
    store = featurize_file(opened, index, repair=repair)
    scores = scorer.score_store(store)
    if scores.share_far is not None and scores.share_far > MOST_FAR:
        logger.warning("%s %s", opened.head.path, unlike_train(scores.share_far))
    prefixes = {} if by is None else _values_along(opened, index, by)
    rows = files.to_rows(index.table, scores.to_fields() | prefixes, prefix)
    if best:
        chosen_rows = files.choose_best(path, index.sources, rows)
        files.write_best(path, chosen_rows)
        console().print(rows_table(f"best of {file} in {out}", chosen_rows.describe()))
        return
    num_rows = files.write_rows(path, index.sources, rows)
    summary = describe_scores(scores, store.samples, num_rows)
    if prefixes:
        summary["prefixes scored"] = len(prefixes[ALONG].flatten())
    console().print(rows_table(f"scores of {opened.head.path} in {out}", summary))


def _check_options(
    out: str, *, best: bool, along: str | None, distance: bool
) -> "tuple[Path, By | None]":
    """Find where to write and where prefixes end, before anything is opened.

    Raises:
        CriticError: options that exclude each other, or cannot be used.
    """
    from featurize.errors import CriticError
    from headtrain.scoring.files import to_output
    from headtrain.scoring.verdict import to_by

    path = Path(out) if best else to_output(out)
    by = None if along is None else to_by(along)
    if best and by is not None:
        raise CriticError("--along adds fields, which --best does not write; give one of the two")
    if best and distance:
        raise CriticError("--distance adds a field, which --best does not write; leave one out")
    return path, by


def _check_prefixes(opened: "HeadProject") -> None:
    """Raise CriticError if the head reads what only a whole output has."""
    from headtrain.scoring.verdict import check_prefixes

    has_end = opened.project.settings.prompt.end != "none"
    check_prefixes(opened.head.record.columns.tensors, has_end=has_end)


def _values_along(
    opened: "HeadProject", index: "DatasetIndex", by: "By"
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


def serve(
    head: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    backbone: str | None = None,
    scale: Literal["logit", "probability", "value"] = "logit",
    window_ms: float = 5.0,
    max_waiting: int = 4096,
    policy_template: str = "{prompt}",
    end: list[str] | None = None,
) -> None:
    """Serve a critic over HTTP: values, rewards and a page to try it.

    If CRITIC_TOKEN is set, requests need it as a bearer token.
    """
    console().print(f"serve: {head}")
    refuse_torchrun("serve")
    if not host:  # to a socket it means every address
        raise ValueError("--host '' is no address; give one, or 0.0.0.0 for every address")
    try:
        from headtrain.scoring.server.run import Server, is_loopback
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install critic[serve]") from error
    from headtrain.head.checkpoint import load_head
    from headtrain.scoring.critic import Critic
    from headtrain.scoring.server.service import Limits
    from headtrain.scoring.texts import TextRules

    load_head(head)  # a wrong folder ends the command before anything listens
    token = os.environ.get("CRITIC_TOKEN", "")
    server = Server(
        lambda: Critic.load(head, device=device, backbone=backbone),
        model=Path(head).name,
        host=host,
        port=port,
        scale=scale,
        limits=Limits(window=window_ms / 1000, max_waiting=max_waiting),
        rules=TextRules(policy_template=policy_template, ends=tuple(end or ())),
        token=token,
    )
    if not token and not is_loopback(host):
        console().print("warning: anyone who reaches this address may use it (no CRITIC_TOKEN)")
    console().print(f"listening on {server.url}, loading the backbone ({server.url}/ready)")
    server.run()
    console().print(rows_table("served", server.service.describe()))
