"""What waits is computed together, by prompt; what nobody waits for is not."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
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


class Gated(Computer):
    """A computer whose first run waits until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self._inside, self._go = threading.Event(), threading.Event()

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        self._inside.set()
        assert self._go.wait(PATIENCE)
        return super().__call__(samples)

    async def wait_until_inside(self) -> None:
        assert await asyncio.to_thread(self._inside.wait, PATIENCE)

    def go(self) -> None:
        self._go.set()


def with_batcher(
    use: Callable[[Batcher], Awaitable[None]], compute: Callable[..., list[Verdict]]
) -> None:
    async def run() -> None:
        batcher = Batcher(compute, window=0, max_run=512)
        await use(batcher)
        await batcher.close()

    asyncio.run(run())


def answers_to(
    computer: Computer, samples: Sequence[Sample], max_run: int = 512
) -> list[Verdict | BaseException]:
    """Submit samples together and wait for their answers."""

    async def run() -> list[Verdict | BaseException]:
        batcher = Batcher(computer, window=0, max_run=max_run)
        found = await asyncio.gather(*batcher.submit(samples), return_exceptions=True)
        await batcher.close()
        return found

    return asyncio.run(run())


def test_samples_of_a_prompt_are_computed_together_however_they_came() -> None:
    computer = Computer()
    samples = [sample(1, 1), sample(2, 1), sample(1, 2)]
    assert answers_to(computer, samples) == [judged(one) for one in samples]
    assert computer.runs == [[samples[0], samples[2], samples[1]]]


def test_a_run_takes_whole_prompts_in_order_of_arrival() -> None:
    computer = Computer()
    samples = [sample(prompt, output) for output in range(3) for prompt in range(4)]
    answers_to(computer, samples, max_run=4)
    prompts = [sorted({one.prompt[0] for one in run}) for run in computer.runs]
    assert prompts == [[0, 1], [2, 3]]


def test_a_cancelled_sample_is_not_computed() -> None:
    computer = Computer()

    async def use(batcher: Batcher) -> None:
        gone, kept = batcher.submit([sample(1, 1), sample(1, 2)])
        gone.cancel()
        assert (await kept).value == 1002

    with_batcher(use, computer)
    assert computer.runs == [[sample(1, 2)]]


@pytest.mark.parametrize("output", [1, 13])
def test_a_sample_may_be_cancelled_while_it_is_computed(output: int) -> None:
    computer = Gated()

    async def use(batcher: Batcher) -> None:
        [gone] = batcher.submit([sample(1, output)])
        await computer.wait_until_inside()
        gone.cancel()
        computer.go()
        [other] = batcher.submit([sample(1, 2)])
        assert (await other).value == 1002

    with_batcher(use, computer)


def test_samples_gather_while_a_run_is_computed() -> None:
    computer = Gated()

    async def use(batcher: Batcher) -> None:
        [first] = batcher.submit([sample(1, 1)])
        await computer.wait_until_inside()
        later = [one for n in range(2, 6) for one in batcher.submit([sample(1, n)])]
        assert batcher.num_waiting == 4
        computer.go()
        found = await asyncio.gather(first, *later)
        assert [one.value for one in found] == [1001, 1002, 1003, 1004, 1005]

    with_batcher(use, computer)
    assert [len(run) for run in computer.runs] == [1, 4]


def test_closing_computes_what_waits() -> None:
    promises: list[asyncio.Future[Verdict]] = []

    async def use(batcher: Batcher) -> None:
        promises.extend(batcher.submit([sample(1, 1)]))

    with_batcher(use, Computer())
    assert promises[0].result().value == 1001


def test_the_time_to_come_back_is_that_of_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 4.0])
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("headtrain.scoring.server.batcher.time", clock)

    async def use(batcher: Batcher) -> None:
        await asyncio.gather(*batcher.submit([sample(1, 1), sample(1, 2)]))
        assert batcher.retry_seconds == 1
        for count, seconds in ((5, 10), (500, 60)):  # two seconds each
            batcher._waiting[1,] = [None] * count  # type: ignore[list-item]
            assert batcher.retry_seconds == seconds
        batcher._waiting.clear()

    with_batcher(use, Computer())


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
    for one, answer in zip(samples, answers_to(computer, samples, max_run), strict=True):
        if one.output == (13,):
            assert isinstance(answer, ArithmeticError)
        else:
            assert answer == judged(one)
    if not any(one.output == (13,) for one in samples):
        prompts = [prompt for run in computer.runs for prompt in {one.prompt for one in run}]
        assert len(prompts) == len(set(prompts))
