"""What waits is computed together, by prompt; what nobody waits for is not."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headtrain.scoring.samples import Sample
from headtrain.scoring.server.batcher import Batcher
from headtrain.scoring.verdict import Verdict

PATIENCE = 60.0


def sample(prompt: int, output: int) -> Sample:
    return Sample(prompt=(prompt,), output=(output,), is_truncated=False)


def judged(one: Sample) -> Verdict:
    value = float(1000 * one.prompt[0] + one.output[0])
    return Verdict(
        value=value, logit=None, probability=None, spread=None, num_tokens=2, is_truncated=False
    )


class Computer:
    """Judges at once, and notes what it was given; outputs of 13 are unlucky."""

    def __init__(self) -> None:
        self.runs: list[list[Sample]] = []

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        self.runs.append(list(samples))
        if any(one.output == (13,) for one in samples):
            raise ArithmeticError("unlucky")
        return [judged(one) for one in samples]


def run_all(
    computer: Computer, samples: Sequence[Sample], max_run: int = 512
) -> "list[Future[Verdict]]":
    """Submit samples before the batcher starts, then let it compute them all."""
    batcher = Batcher(computer, window=0, max_run=max_run)
    promises = batcher.submit(samples)
    batcher.start()
    batcher.close()
    return promises


def test_samples_of_a_prompt_are_computed_together_however_they_came() -> None:
    computer = Computer()
    samples = [sample(1, 1), sample(2, 1), sample(1, 2)]
    promises = run_all(computer, samples)
    assert computer.runs == [[samples[0], samples[2], samples[1]]]
    assert [one.result() for one in promises] == [judged(one) for one in samples]


def test_a_run_takes_whole_prompts_in_order_of_arrival() -> None:
    computer = Computer()
    samples = [sample(prompt, output) for output in range(3) for prompt in range(4)]
    run_all(computer, samples, max_run=4)
    prompts = [sorted({one.prompt[0] for one in run}) for run in computer.runs]
    assert prompts == [[0, 1], [2, 3]]


def test_a_bad_sample_fails_alone() -> None:
    good, bad, other = run_all(Computer(), [sample(1, 1), sample(1, 13), sample(2, 5)])
    assert good.result().value == 1001
    assert other.result().value == 2005
    with pytest.raises(ArithmeticError, match="unlucky"):
        bad.result()


def test_a_cancelled_sample_is_not_computed() -> None:
    computer = Computer()
    batcher = Batcher(computer, window=0, max_run=512)
    gone, kept = batcher.submit([sample(1, 1), sample(1, 2)])
    gone.cancel()
    batcher.start()
    batcher.close()
    assert computer.runs == [[sample(1, 2)]]
    assert kept.result().value == 1002
    assert batcher.num_dropped == 1


def test_samples_gather_while_a_run_is_computed() -> None:
    inside, go = threading.Event(), threading.Event()
    computer = Computer()

    def compute(samples: Sequence[Sample]) -> list[Verdict]:
        inside.set()
        assert go.wait(PATIENCE)
        return computer(samples)

    batcher = Batcher(compute, window=0, max_run=512)
    batcher.start()
    [first] = batcher.submit([sample(1, 1)])
    assert inside.wait(PATIENCE)
    later = [one for n in range(2, 6) for one in batcher.submit([sample(1, n)])]
    assert batcher.num_waiting == 4
    go.set()
    assert [one.result(PATIENCE).value for one in [first, *later]] == [1001, 1002, 1003, 1004, 1005]
    assert [len(run) for run in computer.runs] == [1, 4]
    batcher.close()


def test_closing_computes_what_waits_and_refuses_what_comes() -> None:
    batcher = Batcher(Computer(), window=1000, max_run=512)  # nobody waits for this window
    batcher.start()
    [promise] = batcher.submit([sample(1, 1)])
    batcher.close()
    assert promise.result(PATIENCE).value == 1001
    with pytest.raises(RuntimeError, match="shutting down"):
        batcher.submit([sample(1, 1)])


def test_the_time_to_come_back_is_that_of_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 4.0])
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("headtrain.scoring.server.batcher.time", clock)
    batcher = Batcher(Computer(), window=0, max_run=512)
    promises = batcher.submit([sample(1, 1), sample(1, 2)])
    batcher.start()
    batcher.close()
    assert all(one.done() for one in promises)
    assert batcher.retry_seconds == 1
    batcher._waiting[(1,)] = [None] * 5  # type: ignore[list-item]
    assert batcher.retry_seconds == 10  # two seconds each
    batcher._waiting[(1,)] *= 100
    assert batcher.retry_seconds == 60


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), max_size=40),
    st.integers(1, 50),
)
def test_every_sample_gets_its_own_answer_and_no_prompt_is_parted(
    pairs: list[tuple[int, int]], max_run: int
) -> None:
    computer = Computer()
    samples = [sample(*pair) for pair in pairs]
    for one, promise in zip(samples, run_all(computer, samples, max_run), strict=True):
        if one.output == (13,):
            assert isinstance(promise.exception(), ArithmeticError)
        else:
            assert promise.result() == judged(one)
    if not any(one.output == (13,) for one in samples):
        prompts = [prompt for run in computer.runs for prompt in {one.prompt for one in run}]
        assert len(prompts) == len(set(prompts))
