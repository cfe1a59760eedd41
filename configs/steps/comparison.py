"""Steps of `critic compare` and `critic report`: several heads on one split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.console import keep_fonts_in
from configs.displays import show_comparison, show_disagreements, show_heads
from configs.project import Project

if TYPE_CHECKING:
    from headtrain.evaluation.shared import SharedSamples
    from headtrain.evaluation.side_by_side import SideBySide
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.head.checkpoint import TrainedHead


@dataclass(frozen=True, kw_only=True)
class OpenedHeads:
    """Heads with the samples that all of them score."""

    heads: "Sequence[TrainedHead]"
    shared: "SharedSamples"
    texts: "SplitTexts"

    @property
    def paths(self) -> list[str]:
        """Folders or URIs of the heads."""
        return [head.path for head in self.heads]


def open_heads(project: Project, heads: Sequence[str], split: str) -> OpenedHeads:
    """Open heads and the features of a split that each of them reads."""
    from headtrain.evaluation.shared import read_shared
    from headtrain.evaluation.texts import SplitTexts
    from headtrain.head.checkpoint import load_head

    loaded = [load_head(head) for head in heads]
    stores = [project.open_store_of(head, split) for head in loaded]
    shared = read_shared(list(zip(loaded, stores, strict=True)))
    texts = SplitTexts(task_ids=shared.task_ids, source=project.open_texts(split, stores[0]))
    return OpenedHeads(heads=loaded, shared=shared, texts=texts)


def compare_heads(project: Project, first: str, second: str, split: str) -> Path:
    """Compare two heads, show how they differ, and write it as JSON; returns its path."""
    from featurize.io.files import write_json
    from headtrain.evaluation.comparison import FIRST, SECOND, compare
    from headtrain.evaluation.files import head_name

    settings, layout = project.settings, project.layout
    opened = open_heads(project, [first, second], split)
    of_first, of_second = opened.shared.scored
    comparison = compare(
        of_first,
        of_second,
        settings.evaluation,
        seed=settings.runtime.seed,
        num_disagreements=settings.evaluation.mistakes,
    )
    compared = dict(zip((FIRST, SECOND), opened.paths, strict=True))
    show_heads(compared)
    show_comparison(
        comparison,
        split,
        settings.evaluation.confidence,
        num_left_out=opened.shared.num_left_out,
    )
    disagreements = {
        f"{FIRST} right, {SECOND} wrong": comparison.wins,
        f"{SECOND} right, {FIRST} wrong": comparison.losses,
    }
    show_disagreements(disagreements, opened.texts)
    names = "+".join(head_name(path, layout.checkpoint_dir) for path in opened.paths)
    path = layout.evaluation_dir / f"compare-{split}-{names}.json"
    write_json(path, {"heads_compared": compared, **comparison.to_dict()})
    return path


@dataclass(frozen=True, kw_only=True)
class HeadsReport:
    """The page of several heads, and what it shows."""

    path: Path
    found: "SideBySide"
    heads: dict[str, str]
    """Paths by letter."""


def report_heads(project: Project, heads: Sequence[str], split: str) -> HeadsReport:
    """Compare heads and write the page that shows them side by side, with a JSON beside it."""
    keep_fonts_in(project.layout.cache_dir)
    from featurize.io.files import write_json
    from headtrain.evaluation.files import report_name
    from headtrain.evaluation.side_by_side import LETTERS, compare_all
    from headtrain.report.provenance import describe_head
    from headtrain.report.side_by_side import HeadOnPage, SideBySidePage
    from headtrain.report.sweep import to_head
    from headtrain.report.sweep_page import read_own_sweep

    settings, layout = project.settings, project.layout
    opened = open_heads(project, [to_head(head) for head in heads], split)
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
    return HeadsReport(path=path, found=found, heads={n: head.path for n, head in named.items()})
