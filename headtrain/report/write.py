"""Writes the report of a judged head: the page and its pictures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featurize.io.files import atomic_path
from headtrain.evaluation.judge import Judgement
from headtrain.evaluation.mistakes import Mistake, describe_mistakes, widest_pairs
from headtrain.metrics.bootstrap import Interval
from headtrain.report.figures import History, draw_all
from headtrain.report.page import render_page


def write_report(
    folder: Path,
    judgement: Judgement,
    split: str,
    *,
    title: str,
    about: Mapping[str, str],
    num_mistakes: int,
    history: History | None = None,
    sweep: Mapping[str, Interval] | None = None,
) -> list[Path]:
    """Write `<split>.html` and a PNG for each figure below `<split>/`; returns all, the page first.

    Equal judgements give equal files.
    """
    pictures = draw_all(
        judgement.evaluation,
        split,
        {name: read.scored for name, read in judgement.splits.items()},
        history or {},
        sweep or {},
    )
    page = render_page(
        title=title,
        about=about,
        evaluation=judgement.evaluation,
        split=split,
        pictures=pictures,
        mistakes=worst_mistakes(judgement, split, num_mistakes),
    )
    paths = [folder / f"{split}.html"]
    with atomic_path(paths[0]) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for picture in pictures:
        paths.append(folder / split / f"{picture.name}.png")
        with atomic_path(paths[-1]) as temporary:
            temporary.write_bytes(picture.png)
    return paths


def worst_mistakes(judgement: Judgement, split: str, limit: int) -> list[Mistake]:
    """The widest mistakes of the head with their texts; none where texts cannot be read."""
    read = judgement.splits[split]
    if not read.texts.are_there:
        return []
    pairs = widest_pairs(read.scored, limit)
    samples = read.texts.read(np.concatenate([pairs.correct, pairs.incorrect]))
    decision = judgement.evaluation.decision
    probability = None if decision is None else decision.calibration.probability(read.scored.scores)
    return describe_mistakes(pairs, samples, read.scored, probability)
