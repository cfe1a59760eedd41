"""Trains the heads of a sweep: those of one shape stacked, each kept as it was at its best."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from headtrain.features.inputs import HeadInputs
from headtrain.head.model import HeadModel
from headtrain.sweep.kept import KeptStacks
from headtrain.sweep.points import SweepInputs, SweepReader
from headtrain.sweep.trained import Candidate, Trained
from headtrain.training.loop import STACKED_ALIKE, HeadJob, Trainer
from headtrain.training.objective import Objective, make_objective
from headtrain.training.train import make_model

HEADS_AT_ONCE = 16
"""Heads of one stack. More of them cost no less a head, but memory."""


def train_candidates(
    candidates: Sequence[Candidate],
    reader: SweepReader,
    kept: KeptStacks,
    *,
    save_checkpoint_every: float | None,
    mixed_precision: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Trained]:
    """Train every candidate that is not kept from an earlier start; yields them stack by stack."""
    stacks = stack_up(candidates, reader)
    done = 0
    for stack in stacks:
        heads = kept.read(stack)
        if heads is None:
            reader.keep_only([candidate.point for candidate in stack])
            # NOTE: no name for the run: it would hold its features while the next reads others.
            heads = StackRun(stack, reader, mixed_precision=mixed_precision).go(
                save_checkpoint_every
            )
            kept.write(stack, heads)
        yield from heads
        done += len(stack)
        if progress is not None:
            progress(done, len(candidates))


def stack_up(candidates: Sequence[Candidate], reader: SweepReader) -> list[list[Candidate]]:
    """Put heads that can be trained as one together; those that share inputs stand together."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        point = candidate.point
        columns, data = reader.columns(point), reader.data(point)
        is_mix = point.training.feature_mix == "mix"
        objective = (
            len(data.plan.correct),
            len(data.samples),
            data.plan.num_problems,
            point.training.problem_pairs,
        )
        alike = [getattr(point.training, name) for name in STACKED_ALIKE]
        blocks = columns.blocks if is_mix else (columns.width, columns.num_direct)
        key = repr((alike, blocks, objective))
        groups.setdefault(key, []).append(candidate)
    stacks = []
    for group in groups.values():
        # Stable: the grid's order within.
        group.sort(key=lambda c: (reader.columns(c.point).tensors, c.point.training.normaliser))
        size = math.ceil(len(group) / math.ceil(len(group) / HEADS_AT_ONCE))  # stacks of even size
        stacks += [group[start : start + size] for start in range(0, len(group), size)]
    return stacks


class StackRun:
    """One stack from its first step to its last."""

    def __init__(
        self, candidates: Sequence[Candidate], reader: SweepReader, *, mixed_precision: bool
    ) -> None:
        self._started = time.monotonic()
        self.candidates = list(candidates)
        self.memory = reader.memory
        self.inputs = [reader.inputs(candidate.point) for candidate in candidates]
        jobs = [
            HeadJob(
                model=_make_model(candidate, inputs, reader.device),
                objective=objective,
                settings=candidate.point.training,
                seed=candidate.seed,
            )
            for candidate, inputs, objective in zip(
                candidates, self.inputs, self._objectives(), strict=True
            )
        ]
        self.trainer = Trainer(jobs, device=reader.device, mixed_precision=mixed_precision)
        number = len(jobs)
        self.best = [-1.0] * number
        self.best_steps = [0] * number
        self.num_since_best = [0] * number
        self.num_validations = [0] * number
        self.histories: list[list[tuple[int, dict[str, float]]]] = [[] for _ in jobs]
        self.is_running = [True] * number
        self.has_diverged = [False] * number
        self._kept = self.trainer.stack.parameters.clone()

    def go(self, save_checkpoint_every: float | None) -> list[Trained]:
        """Train; heads that stop early or diverge are kept as they are while others go on."""
        trainer, every = self.trainer, save_checkpoint_every
        interval = max(1, round(every * trainer.steps_per_epoch)) if every else trainer.num_steps
        for step in range(1, trainer.num_steps + 1):
            trainer.take_step(step - 1)
            if step % interval == 0 or step == trainer.num_steps:
                self._validate(step)
                if not any(self.is_running):
                    break
        trainer.stack.parameters.copy_(self._kept)
        return [self._outcome(head) for head in range(len(self.candidates))]

    def _validate(self, step: int) -> None:
        for head, means in enumerate(self.trainer.read_means()):
            if not self.is_running[head]:
                continue
            if not math.isfinite(means["loss"]) or not math.isfinite(means["grad_norm"]):
                self.has_diverged[head], self.is_running[head] = True, False
                continue
            job, inputs = self.trainer.jobs[head], self.inputs[head]
            accuracy = inputs.watch.measure(job.model)
            metrics = {f"train/{name}": value for name, value in means.items()}
            metrics["choose/accuracy_over_problems"] = accuracy.over_problems
            self.histories[head].append((step, metrics))
            self.num_validations[head] += 1
            self.num_since_best[head] += 1
            if accuracy.over_problems > self.best[head]:
                self.best[head], self.best_steps[head] = accuracy.over_problems, step
                self.num_since_best[head] = 0
                self._kept[head] = self.trainer.stack.parameters[head]
            patience = job.settings.early_stopping_patience
            self.is_running[head] = patience is None or self.num_since_best[head] < patience

    def _outcome(self, head: int) -> Trained:
        inputs, model = self.inputs[head], self.trainer.jobs[head].model
        has_values = not self.has_diverged[head]
        return Trained(
            candidate=self.candidates[head],
            model=_own_copy(model),
            best_step=self.best_steps[head],
            num_steps=self.histories[head][-1][0] if self.histories[head] else 0,
            num_validations=self.num_validations[head],
            history=tuple(self.histories[head]),
            choose=inputs.choose.score(model) if has_values else None,
            report=inputs.report.score(model) if has_values else None,
            holdout=inputs.holdout.score(model) if has_values and inputs.holdout else None,
            seconds=(time.monotonic() - self._started) / len(self.candidates),
        )

    def _objectives(self) -> list[Objective]:
        """All over one block of features: that of the only inputs, or those of several in turn."""
        distinct = list({id(inputs): inputs.train for inputs in self.inputs}.values())
        features = [one.features for one in distinct]
        block = features[0] if len(features) == 1 else self._join(features)
        starts, start = {}, 0
        for one in distinct:
            starts[id(one)] = start
            start += len(one.features)
        return [
            make_objective(
                _moved(inputs.train, block, starts[id(inputs.train)]),
                inputs.data.plan,
                candidate.point.training,
            )
            for candidate, inputs in zip(self.candidates, self.inputs, strict=True)
        ]

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features below each other, in memory or in a file."""
        num_rows = sum(len(part) for part in parts)
        block = self.memory.allocate(num_rows, parts[0].shape[1])
        for place, part in zip(block.split([len(part) for part in parts]), parts, strict=True):
            place.copy_(part)
        return block


def _make_model(candidate: Candidate, inputs: SweepInputs, device: torch.device) -> HeadModel:
    model = make_model(inputs.columns, candidate.point.training, candidate.seed)
    model.normaliser.load_state_dict(inputs.normaliser.state_dict())
    return model.to(device).train()


def _moved(inputs: HeadInputs, block: torch.Tensor, start: int) -> HeadInputs:
    return replace(inputs, features=block, rows=inputs.rows + start)


def _own_copy(model: HeadModel) -> HeadModel:
    """The model with weights that are no longer views of its stack, so that the stack can go."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()
