import math

import pytest

from headtrain.settings import SchedulerSettings
from headtrain.training.loop import learning_rate_factor


def factors(num_steps: int, **settings: object) -> list[float]:
    scheduler = SchedulerSettings(**settings)  # type: ignore[arg-type]
    return [learning_rate_factor(step, num_steps, scheduler) for step in range(num_steps)]


def test_the_cosine_follows_transformers_after_the_warm_up() -> None:
    # transformers' get_cosine_with_min_lr_schedule_with_warmup, half a cycle
    num_steps, warmup, minimum = 200, 10, 0.01
    ours = factors(num_steps, warmup_ratio=0.05, min_lr_ratio=minimum)
    for step in range(warmup, num_steps):
        progress = (step - warmup) / max(1, num_steps - warmup)
        cosine = 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress))
        assert ours[step] == pytest.approx(cosine * (1 - minimum) + minimum, rel=1e-12)


def test_the_warm_up_is_a_line_to_the_peak() -> None:
    assert factors(8, warmup_ratio=0.5)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_falls_from_the_peak_to_just_above_the_minimum() -> None:
    ours = factors(1000, warmup_ratio=0.0, min_lr_ratio=0.1)
    assert ours[0] == 1.0
    assert ours == sorted(ours, reverse=True)
    assert 0.1 < ours[-1] < 0.1001
    assert ours[500] == pytest.approx(0.55)


def test_constant_stays_at_the_peak() -> None:
    assert factors(4, type="constant", warmup_ratio=0.5) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.9])
@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_a_run_of_one_step_still_learns(warmup_ratio: float, kind: str) -> None:
    assert factors(1, warmup_ratio=warmup_ratio, type=kind) == [1.0]


def test_steps_past_the_end_and_runs_without_steps_stay_in_range() -> None:
    scheduler = SchedulerSettings(min_lr_ratio=0.2)
    assert learning_rate_factor(500, 100, scheduler) == pytest.approx(0.2)
    assert learning_rate_factor(0, 0, SchedulerSettings()) == 1.0
    assert factors(0) == []


def test_a_minimum_of_one_never_falls() -> None:
    assert set(factors(10, warmup_ratio=0.0, min_lr_ratio=1.0)) == {1.0}
