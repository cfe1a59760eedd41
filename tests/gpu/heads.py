"""Check B9 and section E: training heads on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from headtrain.head.model import HeadModel
from headtrain.settings import TrainingSettings
from headtrain.training.loop import HeadJob, Trainer
from headtrain.training.stepper import PaddedTrainer
from tests.benchmarks.bench_head import BATCH, NUM_PAIRS, Data
from tests.gpu.correctness import waits_of
from tests.gpu.report import Found, Report, Row, Skip
from tests.gpu.timing import free_memory, kernels_of, seconds_of

TABLE = "E. Heads"
CPU = torch.device("cpu")
ACCUMULATED = 2
"""Batches of a step, as in configs/critic_pairwise.yaml."""

SAME_HEAD = 1e-2
"""Largest difference of the values of two heads, in deviations of the values over the samples."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of the check and of the measurement."""

    width: int  # of the features
    steps: int  # of the check
    measured_width: int
    measured_steps: int
    heads: Sequence[int]


FULL = Plan(width=576, steps=300, measured_width=4096, measured_steps=200, heads=(1, 8, 64))
TINY = Plan(width=32, steps=40, measured_width=64, measured_steps=20, heads=(1, 3))


def measure_heads(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Make check B9, then measure steps."""
    plan = TINY if is_tiny else FULL
    data = Data(plan.width)
    name = f"B9 {plan.steps} steps of a head"
    report.check(f"{name}: against unpadded steps on a CPU", lambda: agree(data, device, plan))
    report.check(f"{name}: resumed half way", lambda: resume(data, device, plan))
    report.check(f"{name}: waits a step", lambda: waits(data, device, plan))
    data = Data(plan.measured_width)
    free_memory(device)
    # On a CPU products are in 32 bits whatever is asked for.
    for mixed in (True, False) if device.type == "cuda" else (False,):
        for number in plan.heads:

            def run(number: int = number, mixed: bool = mixed) -> Row:
                return measure_steps(data, device, plan, number, is_mixed=mixed)

            kind = "bfloat16" if mixed else "float32"
            report.measure(TABLE, run, width=plan.measured_width, heads=number, products=kind)
            free_memory(device)


def make_trainer(
    data: Data,
    device: torch.device,
    number: int = 1,
    *,
    is_mixed: bool = False,
    is_padded: bool = True,
    dropout: float = 0.0,
) -> Trainer:
    """Heads with seeds of their own over the pairs of bench_head.py."""
    settings = TrainingSettings(
        batch_size=BATCH, gradient_accumulation_steps=ACCUMULATED, n_epochs=10, dropout=dropout
    )
    objective = replace(data.objective(is_by_problem=False), features=data.features.to(device))
    spec = replace(data.spec, dropout=dropout)
    jobs = [
        HeadJob(
            model=HeadModel.from_seed(spec, seed).to(device).train(),
            objective=objective,
            settings=settings,
            seed=seed,
        )
        for seed in range(number)
    ]
    kind = PaddedTrainer if is_padded else Trainer
    return kind(jobs, device=device, mixed_precision=is_mixed)


def agree(data: Data, device: torch.device, plan: Plan) -> Found:
    """Padded steps on the device train the head that unpadded steps train on a CPU.

    Without dropout, because devices draw other random numbers.
    """
    expected, found = make_trainer(data, CPU, is_padded=False), make_trainer(data, device)
    for step in range(plan.steps):
        expected.take_step(step)
        found.take_step(step)
    return Found(error=head_difference(data, found, expected), limit=SAME_HEAD, path=device.type)


def resume(data: Data, device: torch.device, plan: Plan) -> Found:
    """A head resumed half way equals the one that was trained in one go."""
    whole, resumed = (make_trainer(data, device, dropout=0.3) for _ in range(2))
    half = plan.steps // 2
    for step in range(plan.steps):
        if step == half:
            resumed.heads.parameters.copy_(whole.heads.parameters)
            resumed.optimizer.load(whole.optimizer.state())
        whole.take_step(step)
        if step >= half:
            resumed.take_step(step)
    return Found(error=head_difference(data, resumed, whole), limit=1e-4, path=device.type)


def waits(data: Data, device: torch.device, plan: Plan) -> Found:
    """The host waits for the device at no step."""
    if device.type != "cuda":
        raise Skip("only CUDA reports waits (torch.cuda.set_sync_debug_mode)")
    trainer = make_trainer(data, device, dropout=0.3)
    for step in range(3):
        trainer.take_step(step)

    def run() -> None:
        for step in range(3, plan.steps):
            trainer.take_step(step)

    places = waits_of(run)
    note = ", ".join(f"{place} x{number}" for place, number in places.most_common(5))
    return Found(error=places.total() / plan.steps, limit=0.0, note=note)


@torch.no_grad()
def head_difference(data: Data, left: Trainer, right: Trainer) -> float:
    """Largest difference of the values of two heads, in deviations of the second's values."""
    values = [
        trainer.jobs[0].model.cpu().eval().score_normalised(data.features).squeeze(-1)
        for trainer in (left, right)
    ]
    return float((values[0] - values[1]).abs().max() / values[1].std())


def measure_steps(
    data: Data, device: torch.device, plan: Plan, number: int, *, is_mixed: bool
) -> Row:
    """Time and kernels of a step, and seconds of an epoch without its validations."""
    trainer = make_trainer(data, device, number, is_mixed=is_mixed, dropout=0.3)
    done = 0

    def run(steps: int) -> None:
        nonlocal done
        for step in range(done, done + steps):
            trainer.take_step(step)
            if (step + 1) % 10 == 0:  # log_interval
                trainer.read_means()
        done += steps

    run(5)
    seconds = seconds_of(lambda: run(plan.measured_steps), device) / plan.measured_steps
    kernels = kernels_of(lambda: run(10), device)
    epoch = NUM_PAIRS / BATCH / ACCUMULATED * seconds
    busy = 100 * kernels.busy_seconds / 10 / seconds if device.type == "cuda" else None
    return {
        "us a step": 1e6 * seconds,
        "kernels a step": round(kernels.number / 10),
        "GPU busy %": busy,
        f"s an epoch of {NUM_PAIRS}": epoch,
        "of that per head": epoch / number,
    }
