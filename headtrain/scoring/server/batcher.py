"""Collects samples that arrive one by one, so that those of one prompt share a forward pass."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from headtrain.scoring.samples import Sample
from headtrain.scoring.verdict import Verdict

MAX_RETRY_SECONDS = 60

Compute = Callable[[Sequence[Sample]], Sequence[Verdict]]
"""Judges samples of any prompts together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Waiting:
    """A sample, and the promise of its judgement."""

    sample: Sample
    judged: "Future[Verdict]" = field(default_factory=Future)


class Batcher:
    """One thread that computes whatever waits; meanwhile more samples gather.

    After the first sample arrives it waits for `window` seconds. A sample whose future is
    cancelled before it is computed is dropped. A sample that makes a computation fail, fails alone.
    """

    def __init__(self, compute: Compute, *, window: float, max_run: int) -> None:
        """Make a batcher that has not started.

        Args:
            compute: judges samples, or raises.
            window: seconds to wait for more samples.
            max_run: samples that are computed together; a prompt's samples are never parted.
        """
        closing = threading.Event()
        self._closing = closing
        self._compute = compute
        self._max_run = max_run
        self.gather: Callable[[], object] = lambda: closing.wait(window)
        """Waits for more samples."""
        self._changed = threading.Condition()
        self._waiting: dict[tuple[int, ...], list[Waiting]] = {}  # by prompt, in order of arrival
        self._seconds_per_sample = 0.0
        self._thread = threading.Thread(target=self._run, name="critic-batcher", daemon=True)
        self.num_dropped = 0
        """Samples nobody waited for any more."""

    def start(self) -> None:
        """Start computing."""
        self._thread.start()

    def submit(self, samples: Sequence[Sample]) -> "list[Future[Verdict]]":
        """Add samples; return the promise of each judgement.

        Raises:
            RuntimeError: the batcher is closed.
        """
        if self._closing.is_set():
            raise RuntimeError("the server is shutting down")
        added = [Waiting(sample=sample) for sample in samples]
        with self._changed:
            for one in added:
                self._waiting.setdefault(one.sample.prompt, []).append(one)
            self._changed.notify()
        return [one.judged for one in added]

    @property
    def num_waiting(self) -> int:
        """Samples that wait for their computation to begin."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def retry_seconds(self) -> int:
        """Whole seconds until what waits now will be computed, at the speed of the last run."""
        seconds = math.ceil(self.num_waiting * self._seconds_per_sample)
        return min(max(1, seconds), MAX_RETRY_SECONDS)

    def close(self) -> None:
        """Compute what waits, then end."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            self.gather()
            if taken := self._take():
                started = time.monotonic()
                self._answer(taken)
                self._seconds_per_sample = (time.monotonic() - started) / len(taken)

    def _wait(self) -> bool:
        """Wait for a sample; False when there is none and there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            return bool(self._waiting)

    def _take(self) -> list[Waiting]:
        """Take the prompts that came first with all their samples, without dropped ones."""
        taken: list[Waiting] = []
        with self._changed:
            while self._waiting and len(taken) < self._max_run:
                taken += self._waiting.pop(next(iter(self._waiting)))
        wanted = [one for one in taken if one.judged.set_running_or_notify_cancel()]
        self.num_dropped += len(taken) - len(wanted)
        return wanted

    def _answer(self, taken: Sequence[Waiting]) -> None:
        try:
            judged = self._compute([one.sample for one in taken])
        except Exception as error:  # whatever it is, it is the answer to the sample that causes it
            if len(taken) == 1:
                taken[0].judged.set_exception(error)
                return
            for one in taken:
                self._answer([one])
            return
        for one, found in zip(taken, judged, strict=True):
            one.judged.set_result(found)
