"""The commands that compare heads: `critic compare` and `critic report`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.console import console, keep_fonts_in
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import Project
    from headtrain.evaluation.comparison import Disagreement, SharedSamples
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.head.checkpoint import TrainedHead


def compare(chosen: Chosen, first: str, second: str, split: str = "valid") -> None:
    """Compare two heads on a split: the difference, its interval, and where they disagree."""
    from featurize.io.files import write_json
    from featurize.settings import to_split
    from headtrain.evaluation.comparison import FIRST, SECOND, compare
    from headtrain.evaluation.files import head_name
    from headtrain.report.comparison import comparison_lines, comparison_table

    project, split = chosen.project(), to_split(split)
    settings, layout = project.settings, project.layout
    opened = _open_heads(project, [first, second], split)
    of_first, of_second = opened.shared.scored
    comparison = compare(
        of_first,
        of_second,
        settings.evaluation,
        seed=settings.runtime.seed,
        num_disagreements=settings.evaluation.mistakes,
    )
    compared = dict(zip((FIRST, SECOND), opened.paths, strict=True))
    _show_heads(compared)
    console().print(comparison_table(comparison, split, settings.evaluation.confidence))
    for line in comparison_lines(comparison):
        console().print(line)
    if opened.shared.num_left_out:
        left_out = f"{opened.shared.num_left_out:,}"
        console().print(f"samples that only one of the stores has: {left_out}")
    disagreements = {
        f"{FIRST} right, {SECOND} wrong": comparison.wins,
        f"{SECOND} right, {FIRST} wrong": comparison.losses,
    }
    _show_disagreements(disagreements, opened.texts)
    names = "+".join(head_name(path, layout.checkpoint_dir) for path in opened.paths)
    path = layout.evaluation_dir / f"compare-{split}-{names}.json"
    write_json(path, {"heads_compared": compared, **comparison.to_dict()})
    console().print(f"comparison written to {path}")


def report(chosen: Chosen, heads: list[str], split: str = "valid") -> None:
    """Write a page that compares several heads: accuracies, differences, disagreements."""
    from featurize.settings import to_split

    project, split = chosen.project(), to_split(split)
    keep_fonts_in(project.layout.cache_dir)
    from featurize.io.files import write_json
    from headtrain.evaluation.comparison import LETTERS, compare_all
    from headtrain.evaluation.files import report_name
    from headtrain.report.comparison import HeadOnPage, SideBySidePage, side_by_side_table
    from headtrain.report.provenance import describe_head
    from headtrain.report.sweep import read_own_sweep, to_head

    settings, layout = project.settings, project.layout
    opened = _open_heads(project, [to_head(head) for head in heads], split)
    found = compare_all(
        opened.shared.scored,
        settings.evaluation,
        seed=settings.runtime.seed,
        num_disagreements=settings.evaluation.mistakes,
    )
    named = dict(zip(LETTERS, opened.heads, strict=False))
    sweeps = {name: read_own_sweep(head.path, name) for name, head in named.items()}
    page = SideBySidePage(
        title=f"{settings.experiment.name} on {split}: {len(named)} heads",
        found=found,
        heads={
            name: HeadOnPage(path=head.path, facts=describe_head(head))
            for name, head in named.items()
        },
        texts=opened.texts,
        confidence=settings.evaluation.confidence,
        num_left_out=opened.shared.num_left_out,
        sweeps={name: sweep for name, sweep in sweeps.items() if sweep is not None},
    )
    path = layout.evaluation_dir / report_name(split, opened.paths, layout.checkpoint_dir)
    page.write(path)
    write_json(path.with_suffix(".json"), {"heads_compared": opened.paths, **found.to_dict()})
    _show_heads({name: head.path for name, head in named.items()})
    console().print(side_by_side_table(found, split, settings.evaluation.confidence))
    console().print(f"report written to {path}")


@dataclass(frozen=True, kw_only=True)
class _OpenedHeads:
    """Heads with the samples that all of them score."""

    heads: "Sequence[TrainedHead]"
    shared: "SharedSamples"
    texts: "SplitTexts"

    @property
    def paths(self) -> list[str]:
        """Folders or URIs of the heads."""
        return [head.path for head in self.heads]


def _open_heads(project: "Project", heads: Sequence[str], split: str) -> _OpenedHeads:
    """Open heads and the features of a split that each of them reads."""
    from headtrain.evaluation.comparison import read_shared
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.head.checkpoint import load_head

    loaded = [load_head(head) for head in heads]
    stores = [project.open_store_of(head, split) for head in loaded]
    shared = read_shared(list(zip(loaded, stores, strict=True)))
    texts = SplitTexts(task_ids=shared.task_ids, source=project.open_texts(split, stores[0]))
    return _OpenedHeads(heads=loaded, shared=shared, texts=texts)


def _show_disagreements(
    disagreements: "Mapping[str, Sequence[Disagreement]]", texts: "SplitTexts"
) -> None:
    """The code of the pairs on which two heads disagree, by title."""
    import numpy as np

    from headtrain.report.comparison import disagreement_text

    if not texts.are_there:
        console().print(f"no code to show: {texts.source.why_not}")
        return
    for title, pairs in disagreements.items():
        for pair in pairs:
            correct, incorrect = texts.read(np.array([pair.correct, pair.incorrect]))
            console().print(disagreement_text(title, pair, correct, incorrect), soft_wrap=True)


def _show_heads(paths: Mapping[str, str]) -> None:
    """The path of each head, by its name in the tables."""
    for name, path in paths.items():
        console().print(f"{name}: {path}")
