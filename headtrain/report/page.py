"""Writes an evaluation with its report: self-contained HTML pages without script, and PNGs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featurize.io.files import atomic_path
from headtrain.evaluation.benchmarks import BenchmarkResults
from headtrain.evaluation.evaluate import EvaluatedHead
from headtrain.evaluation.files import write_evaluation
from headtrain.evaluation.findings import find_biases, verdict_sentence
from headtrain.evaluation.numbers import JUDGE
from headtrain.evaluation.problems import Problem, read_problems
from headtrain.head.checkpoint import TrainedHead
from headtrain.report.benchmark import page_tables
from headtrain.report.figures import Content, Picture, render_all
from headtrain.report.provenance import Provenance
from headtrain.report.tables import value_rows
from headtrain.report.template import render
from headtrain.tracking.tracker import Tracker

PROBLEMS_PER_PAGE = 200
MOST_PROBLEMS = 5000
"""Problems on the pages, the worst first; the report says of how many."""


@dataclass(frozen=True, kw_only=True)
class ProblemPage:
    """A page of problems."""

    number: int
    """From 1 on."""
    first: int
    """Place of its first problem, from 1 on."""
    problems: Sequence[Problem]
    folder: str

    @property
    def last(self) -> int:
        """Place of its last problem."""
        return self.first + len(self.problems) - 1

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"problems-{self.number}.html"

    @property
    def href(self) -> str:
        """Its file, seen from the report."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Report(Content):
    """The report of one split. Equal contents give equal files."""

    title: str
    about: Mapping[str, str]
    num_mistakes: int
    """Problems on the report itself, the worst ones that are not all in the right order."""
    provenance: Provenance = field(default_factory=Provenance)
    benchmark: BenchmarkResults | None = None

    def write(self, folder: Path) -> list[Path]:
        """Write `<split>.html`, and its pages of problems and a PNG per figure in `<split>/`.

        Returns the paths, the report first.
        """
        split, pictures = self.split, render_all(self)
        pages = list(to_pages(read_problems(self.evaluated, split, MOST_PROBLEMS), split))
        contents = {folder / f"{split}.html": self.render(pictures, pages).encode()}
        for page in pages:
            shown = render(
                "problems.html.j2", title=self.title, report=f"{split}.html", pages=pages, page=page
            )
            contents[folder / page.href] = shown.encode()
        contents |= {folder / split / f"{one.name}.png": one.png for one in pictures}
        for path, content in contents.items():
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        for path in (folder / split).glob("problems-*.html"):
            if path not in contents:  # of an earlier evaluation with more problems
                path.unlink()
        return list(contents)

    def render(self, pictures: Sequence[Picture], pages: Sequence[ProblemPage]) -> str:
        """Render the report itself.

        Everything from the data (programs, statements, ids, names of languages) is escaped; only
        our own figures are inserted as markup.
        """
        evaluation, split, details = self.evaluated.evaluation, self.split, self.details
        problems = [one for page in pages for one in page.problems]
        return render(
            "page.html.j2",
            title=self.title,
            about=self.about,
            sections=self._sections(has_problems=bool(pages)),
            evaluation=evaluation,
            split=split,
            result=evaluation.splits[split],
            details=details,
            sentence=verdict_sentence(evaluation.splits[split], details),
            findings=find_biases(evaluation, split),
            pictures=pictures,
            pages=pages,
            num_shown=len(problems),
            worst=[one for one in problems if one.wrong is not None][: self.num_mistakes],
            benchmark=list(page_tables(self.benchmark)) if self.benchmark else [],
            provenance=self.provenance,
            level=f"{evaluation.confidence:.0%}",
            values=value_rows(evaluation, split),
            quantities=JUDGE,
            has_difference=split in evaluation.train_minus,
        )

    def _sections(self, *, has_problems: bool) -> dict[str, str]:
        """The titles of the sections there are, by the name of their heading."""
        return {
            "shortcuts": "Head and shortcuts",
            **({"benchmark": "The benchmark's own numbers"} if self.benchmark else {}),
            "figures": "Figures",
            "values": "Values, probabilities and decisions",
            "breakdowns": "Breakdowns",
            "best-of-n": "Best of n",
            **({"problems": "Problems, the worst first"} if has_problems else {}),
            **({"left-out": "Left out"} if self.details.left_out else {}),
            **({"provenance": "Provenance"} if self.provenance.rows else {}),
            "glossary": "Glossary",
        }


def to_pages(problems: Sequence[Problem], folder: str) -> Iterator[ProblemPage]:
    """Cut problems into pages, in their order."""
    for number, start in enumerate(range(0, len(problems), PROBLEMS_PER_PAGE), 1):
        chunk = problems[start : start + PROBLEMS_PER_PAGE]
        yield ProblemPage(number=number, first=start + 1, problems=chunk, folder=folder)


@dataclass(frozen=True, kw_only=True)
class WrittenEvaluation:
    """The files of an evaluation."""

    path: Path
    """The JSON."""
    report: list[Path]
    """The page first, then its figures and further pages."""
    is_new: bool
    """False if the JSON had the same content already."""

    @property
    def files(self) -> list[Path]:
        """All of them, the JSON first."""
        return [self.path, *self.report]


def write_with_report(
    folder: Path,
    evaluated: EvaluatedHead,
    split: str,
    trained: TrainedHead,
    tracker: Tracker,
    *,
    benchmark: BenchmarkResults | None = None,
    **report_options: Any,
) -> WrittenEvaluation:
    """Write the evaluation of a split and its report; log them if the evaluation is new.

    Args:
        folder: where to write `<split>.json` and `<split>.html`.
        evaluated: the evaluation and its samples.
        split: which of its splits the files are about.
        trained: the head evaluated.
        tracker: where the head's run is.
        benchmark: further numbers, in the benchmark's own metrics.
        report_options: fields of `Report`.
    """
    evaluation, path = evaluated.evaluation, folder / f"{split}.json"
    more = None if benchmark is None else asdict(benchmark)
    is_new = write_evaluation(path, evaluation, trained, benchmark=more)
    report = Report(evaluated=evaluated, split=split, benchmark=benchmark, **report_options)
    paths = report.write(folder)
    if is_new:
        run_id = trained.record.tracking_run_id
        metrics = evaluation.metrics(split, benchmark.numbers if benchmark is not None else ())
        tracker.log_evaluation(run_id, metrics, [path, *paths])
    return WrittenEvaluation(path=path, report=paths, is_new=is_new)
