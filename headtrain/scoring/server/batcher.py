"""Collects samples that arrive one by one, so that those of one prompt share a forward pass."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from headtrain.scoring.samples import Sample
from headtrain.scoring.verdict import Verdict

MAX_RETRY_SECONDS = 60

Compute = Callable[[Sequence[Sample]], Sequence[Verdict]]
"""Scores samples of any prompts together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Waiting:
    """A sample, and the promise of its verdict."""

    sample: Sample
    verdict: "asyncio.Future[Verdict]"


class Batcher:
    """Computes whatever waits, in a thread; meanwhile more samples gather. Lives in an event loop.

    After the first sample arrives it waits for `window` seconds. A sample whose promise is
    cancelled before it is computed is dropped. A sample that makes a computation fail, fails alone.
    """

    def __init__(self, compute: Compute, *, window: float, max_run: int) -> None:
        """`max_run` samples are computed together; a prompt's samples are never parted."""
        self._compute = compute
        self._max_run = max_run
        self._waiting: dict[tuple[int, ...], list[Waiting]] = {}  # by prompt, in order of arrival
        self._thread = ThreadPoolExecutor(1, "critic-batcher")
        self._task: asyncio.Task[None] | None = None
        self._seconds_per_sample = 0.0
        self.gather: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(window)
        """Waits for more samples."""

    def submit(self, samples: Sequence[Sample]) -> "list[asyncio.Future[Verdict]]":
        """Add samples; return the promise of each verdict."""
        loop = asyncio.get_running_loop()
        added = [Waiting(sample=sample, verdict=loop.create_future()) for sample in samples]
        for one in added:
            self._waiting.setdefault(one.sample.prompt, []).append(one)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return [one.verdict for one in added]

    @property
    def num_waiting(self) -> int:
        """Samples that wait for their computation to begin."""
        return sum(map(len, self._waiting.values()))

    @property
    def retry_seconds(self) -> int:
        """Whole seconds until what waits now will be computed, at the speed of the last run."""
        seconds = math.ceil(self.num_waiting * self._seconds_per_sample)
        return min(max(1, seconds), MAX_RETRY_SECONDS)

    async def close(self) -> None:
        """Compute what waits, then end."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while self._waiting:
            await self.gather()
            if taken := self._take():
                started = time.monotonic()
                await self._answer(taken)
                self._seconds_per_sample = (time.monotonic() - started) / len(taken)

    def _take(self) -> list[Waiting]:
        """Take the prompts that came first with all their samples, without dropped ones."""
        taken: list[Waiting] = []
        while self._waiting and len(taken) < self._max_run:
            taken += self._waiting.pop(next(iter(self._waiting)))
        return [one for one in taken if not one.verdict.done()]

    async def _answer(self, taken: Sequence[Waiting]) -> None:
        samples = [one.sample for one in taken]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._compute, samples)
        except Exception as error:  # whatever it is, it is the answer to the sample that causes it
            if len(taken) == 1:
                if not taken[0].verdict.cancelled():
                    taken[0].verdict.set_exception(error)
                return
            for one in taken:
                await self._answer([one])
            return
        for one, verdict in zip(taken, found, strict=True):
            if not one.verdict.cancelled():
                one.verdict.set_result(verdict)
