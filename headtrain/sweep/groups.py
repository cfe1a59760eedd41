"""Trains the heads of a sweep: heads of one shape train together as one batch of heads."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from headtrain.features.inputs import HeadInputs
from headtrain.head.model import HeadModel
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.sweep.grid import SweepPoint
from headtrain.sweep.inputs import SweepInputs, SweepReader
from headtrain.training.loop import HeadJob, batch_key
from headtrain.training.objective import Objective, make_objective
from headtrain.training.stepper import make_trainer
from headtrain.training.validation import measure_accuracy, score_inputs

MAX_HEADS = 16
"""Heads of one group. A larger group costs as much time per head, and more memory."""

History = Sequence[tuple[int, dict[str, float]]]
"""Optimizer step and metrics of every validation."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A head to train: a point of the grid with a seed."""

    point: SweepPoint
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrainedCandidate:
    """A trained head with the weights of its best validation."""

    candidate: Candidate
    model: HeadModel
    best_step: int
    num_steps: int
    history: History
    choose: ScoredSamples | None
    """Its scores of the half that selects the winner; None if training diverged."""
    report: ScoredSamples | None
    """Its scores of the other half; None if training diverged."""
    holdout: ScoredSamples | None
    """Its scores of the train problems held out; None without any or if training diverged."""
    seconds: float
    """Training time of its group divided by the number of heads."""


def train_candidates(
    candidates: Sequence[Candidate],
    reader: SweepReader,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[TrainedCandidate]:
    """Train every candidate, group by group; `progress` gets the heads done and their number."""
    num_done = 0
    for group in group_by_shape(candidates, reader):
        reader.keep_only(candidate.point for candidate in group)
        # NOTE: the run gets no name, which would keep its features alive during the next one.
        yield from GroupRun(group, reader).train()
        num_done += len(group)
        if progress is not None:
            progress(num_done, len(candidates))


def group_by_shape(candidates: Sequence[Candidate], reader: SweepReader) -> list[list[Candidate]]:
    """Group heads that can train together; candidates with the same inputs are adjacent."""
    shapes: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        shapes.setdefault(_shape(candidate.point, reader), []).append(candidate)
    groups = []
    for alike in shapes.values():
        # The sort is stable, so within the same inputs the order of the grid remains.
        alike.sort(key=lambda c: (reader.columns(c.point).tensors, c.point.training.normaliser))
        size = math.ceil(len(alike) / math.ceil(len(alike) / MAX_HEADS))  # groups of even size
        groups += [alike[start : start + size] for start in range(0, len(alike), size)]
    return groups


def _shape(point: SweepPoint, reader: SweepReader) -> str:
    """Identify everything that heads of one group must have in common."""
    training, data = point.training, reader.data(point)
    return repr(
        (
            batch_key(reader.spec(point), training),
            (len(data.plan.correct), len(data.samples), data.plan.num_problems),
            training.problem_pairs,
            training.prefixes,
        )
    )


@dataclass(kw_only=True)
class _Progress:
    """One head in training."""

    best: float = -1.0
    best_step: int = 0
    num_since_best: int = 0
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    is_running: bool = True
    has_diverged: bool = False


class GroupRun:
    """The training of one group, from its first step to its last."""

    def __init__(self, candidates: Sequence[Candidate], reader: SweepReader) -> None:
        self._started = time.monotonic()
        self._setup = reader.setup
        self.candidates = list(candidates)
        self.inputs = [reader.inputs(candidate.point) for candidate in candidates]
        jobs = [
            HeadJob(
                model=_make_model(candidate, inputs, reader).to(self._setup.device).train(),
                objective=objective,
                settings=candidate.point.training,
                seed=candidate.seed,
            )
            for candidate, inputs, objective in zip(
                candidates, self.inputs, self._objectives(reader), strict=True
            )
        ]
        self.trainer = make_trainer(
            jobs, device=self._setup.device, mixed_precision=self._setup.mixed_precision
        )
        self.heads = [_Progress() for _ in jobs]
        self._best_parameters = self.trainer.heads.parameters.clone()

    def train(self) -> list[TrainedCandidate]:
        """Train all heads; one that stops early or diverges keeps its best weights."""
        trainer, every = self.trainer, self._setup.save_checkpoint_every
        interval = max(1, round(every * trainer.steps_per_epoch)) if every else trainer.num_steps
        for step in range(1, trainer.num_steps + 1):
            trainer.take_step(step - 1)
            if step % interval == 0 or step == trainer.num_steps:
                for number, means in enumerate(trainer.read_means()):
                    if self.heads[number].is_running:
                        self._validate(number, step, means)
                if not any(head.is_running for head in self.heads):
                    break
        trainer.heads.parameters.copy_(self._best_parameters)
        return [self._result(number) for number in range(len(self.heads))]

    def _validate(self, number: int, step: int, means: dict[str, float]) -> None:
        head, job = self.heads[number], self.trainer.jobs[number]
        if not math.isfinite(means["loss"]) or not math.isfinite(means["grad_norm"]):
            head.has_diverged, head.is_running = True, False
            return
        accuracy = measure_accuracy(job.model, self.inputs[number].watch).over_problems
        metrics = {f"train/{name}": value for name, value in means.items()}
        head.history.append((step, metrics | {"choose/accuracy_over_problems": accuracy}))
        head.num_since_best += 1
        if accuracy > head.best:
            head.best, head.best_step, head.num_since_best = accuracy, step, 0
            self._best_parameters[number] = self.trainer.heads.parameters[number]
        patience = job.settings.early_stopping_patience
        head.is_running = patience is None or head.num_since_best < patience

    def _result(self, number: int) -> TrainedCandidate:
        head, inputs = self.heads[number], self.inputs[number]
        model = self.trainer.jobs[number].model

        def scores(part: HeadInputs | None) -> ScoredSamples | None:
            return None if head.has_diverged or part is None else score_inputs(model, part)

        return TrainedCandidate(
            candidate=self.candidates[number],
            model=_own_copy(model),
            best_step=head.best_step,
            num_steps=head.history[-1][0] if head.history else 0,
            history=head.history,
            choose=scores(inputs.choose),
            report=scores(inputs.report),
            holdout=scores(inputs.holdout),
            seconds=(time.monotonic() - self._started) / len(self.candidates),
        )

    def _objectives(self, reader: SweepReader) -> Iterator[Objective]:
        """Make the objectives over one tensor of features: that of all distinct inputs, joined."""
        distinct = list({id(inputs): inputs.train for inputs in self.inputs}.values())
        features = _join([one.features for one in distinct], reader)
        starts, start = {}, 0
        for one in distinct:
            starts[id(one)] = start
            start += len(one.features)
        for candidate, inputs in zip(self.candidates, self.inputs, strict=True):
            rows = inputs.train.rows + starts[id(inputs.train)]
            joined = replace(inputs.train, features=features, rows=rows)
            yield make_objective(joined, inputs.data.plan, candidate.point.training)


def _join(parts: Sequence[torch.Tensor], reader: SweepReader) -> torch.Tensor:
    """Concatenate features [rows, width], in memory or in a file; a single part is not copied."""
    if len(parts) == 1:
        return parts[0]
    joined = reader.memory.allocate(sum(map(len, parts)), parts[0].shape[1])
    for target, part in zip(joined.split([len(part) for part in parts]), parts, strict=True):
        target.copy_(part)
    return joined


def _make_model(candidate: Candidate, inputs: SweepInputs, reader: SweepReader) -> HeadModel:
    model = HeadModel.from_seed(reader.spec(candidate.point), candidate.seed)
    model.normaliser.load_state_dict(inputs.normaliser.state_dict())
    return model


def _own_copy(model: HeadModel) -> HeadModel:
    """Copy the weights out of the tensor that the group shares, so that it can be freed."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()
