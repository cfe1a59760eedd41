"""Writes an evaluation with its report, and logs it to the tracking server."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headtrain.evaluation.benchmarks import BenchmarkResults
from headtrain.evaluation.evaluate import EvaluatedHead
from headtrain.evaluation.files import write_evaluation
from headtrain.head.checkpoint import TrainedHead
from headtrain.report.page import write_report
from headtrain.tracking.tracker import Tracker


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


def write_judgement(
    folder: Path,
    judgement: EvaluatedHead,
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
        judgement: the evaluation and its samples.
        split: which of its splits the files are about.
        trained: the head evaluated.
        tracker: where the head's run is.
        benchmark: further numbers, in the benchmark's own metrics.
        report_options: those of `write_report`.
    """
    evaluation, path = judgement.evaluation, folder / f"{split}.json"
    more = None if benchmark is None else asdict(benchmark)
    is_new = write_evaluation(path, evaluation, trained, benchmark=more)
    report = write_report(folder, judgement, split, benchmark=benchmark, **report_options)
    if is_new:
        run_id = trained.record.tracking_run_id
        metrics = evaluation.metrics(split, benchmark.numbers if benchmark is not None else ())
        tracker.log_evaluation(run_id, metrics, [path, *report])
    return WrittenEvaluation(path=path, report=report, is_new=is_new)
