"""The critic of a server: loads in the background, encodes texts, and scores them in batches."""

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.exceptions import HTTPException

from featurize.errors import CriticError, one_line
from headtrain.scoring.critic import Critic
from headtrain.scoring.samples import Sample
from headtrain.scoring.server.batcher import Batcher
from headtrain.scoring.server.requests import Answer, Answers, Asked
from headtrain.scoring.texts import TextSample
from headtrain.scoring.verdict import Scale, Verdict

logger = logging.getLogger(__name__)

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
"""Upper bounds in seconds of the histogram of latencies."""

HELP = {
    "critic_requests_total": ("counter", "Requests answered, by endpoint and status."),
    "critic_samples_total": ("counter", "Samples by outcome: judged, failed, dropped, refused."),
    "critic_samples_truncated_total": ("counter", "Samples longer than the head's limits."),
    "critic_forward_tokens_total": ("counter", "Tokens computed, a shared prompt once."),
    "critic_sample_tokens_total": ("counter", "Tokens of the samples, with their whole prompts."),
    "critic_forward_runs_total": ("counter", "Runs of the backbone over samples that waited."),
    "critic_waiting_samples": ("gauge", "Samples admitted and not yet answered."),
    "critic_ready": ("gauge", "1 when the backbone is loaded and checked."),
    "critic_request_seconds": ("histogram", "Seconds from request to reply, by endpoint."),
}

Labels = tuple[tuple[str, str], ...]


OUTCOMES = ("judged", "failed", "dropped", "refused")
"""Outcomes of a sample, as the metrics label them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server accepts."""

    window: float = 0.005
    """Seconds to wait for more samples after the first."""
    max_run: int = 512
    """Samples that are computed together."""
    max_waiting: int = 4096
    """Samples that are admitted and not yet answered."""
    max_body: int = 16 << 20
    """Bytes of a request."""
    max_text: int = 1 << 20
    """Characters, or token ids, of a prompt or an output."""
    body_seconds: float = 30.0
    """Time for a request to arrive."""


class Counters:
    """Counters that any thread may add to."""

    def __init__(self, gauges: Mapping[str, Callable[[], float]] | None = None) -> None:
        """`gauges` are read when the text is made."""
        self._gauges = dict(gauges or {})
        self._lock = threading.Lock()
        self._counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a latency to a histogram."""
        for bound in BUCKETS:
            self.add(f"{name}_bucket", int(seconds <= bound), le=str(bound), **labels)
        self.add(f"{name}_bucket", 1, le="+Inf", **labels)
        self.add(f"{name}_count", 1, **labels)
        self.add(f"{name}_sum", seconds, **labels)

    def count(self, name: str, **labels: str) -> float:
        """Return the sum of a counter over all its labels that agree with `labels`."""
        wanted = set(labels.items())
        with self._lock:
            return sum(
                n for (key, has), n in self._counts.items() if key == name and wanted <= {*has}
            )

    def to_text(self) -> str:
        """Return all counters in Prometheus' text format."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        with self._lock:
            counts = dict(self._counts)
        for name, (kind, help_text) in HELP.items():
            yield f"# HELP {name} {help_text}"
            yield f"# TYPE {name} {kind}"
            if name in self._gauges:
                yield f"{name} {self._gauges[name]():g}"
            for (key, labels), amount in counts.items():
                if key == name or (kind == "histogram" and key.startswith(f"{name}_")):
                    yield f"{key}{_show(labels)} {amount:.10g}"


def _show(labels: Labels) -> str:
    shown = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{shown}}}" if shown else ""


class Service:
    """Scores texts; lives in one event loop, with a thread to encode and one to compute."""

    def __init__(
        self,
        load: Callable[[], Critic],
        *,
        scale: Scale = "logit",
        limits: Limits | None = None,
    ) -> None:
        """`load` loads the critic; it runs in a thread when the service starts."""
        self.limits = limits or Limits()
        self.scale = scale
        self.failure: Exception | None = None
        """Why the critic could not be loaded."""
        self._critic: Critic | None = None
        self.num_admitted = 0
        """Samples that wait for their answer."""
        self.counters = Counters(
            {
                "critic_waiting_samples": lambda: self.num_admitted,
                "critic_ready": lambda: int(self.is_ready),
            }
        )
        self._load = load
        self._encoding = ThreadPoolExecutor(1, "critic-encoder")
        self.batcher = Batcher(self._judge, window=self.limits.window, max_run=self.limits.max_run)

    @property
    def is_ready(self) -> bool:
        """Whether the critic is loaded and checked."""
        return self._critic is not None

    def loaded(self) -> Critic:
        """Return the critic.

        Raises:
            HTTPException: it is still loading.
        """
        if self._critic is None:
            raise HTTPException(503, "the backbone is still loading", {"Retry-After": "2"})
        return self._critic

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load the critic in a thread; calls `on_failure` if that fails, from the thread."""

        def load() -> None:
            try:
                critic = self._load()
                _check(critic, self.scale)
            except Exception as error:  # of a thread: whatever it is, the server reports it
                self.failure = error
                on_failure()
                return
            self._critic = critic
            logger.info("%s is loaded and checked", critic.head.path)

        threading.Thread(target=load, name="critic-loader", daemon=True).start()

    async def close(self) -> None:
        """Score what was admitted, then end the threads."""
        await self.batcher.close()
        self._encoding.shutdown()

    def describe(self) -> dict[str, int]:
        """Account for every sample that was asked for, by name."""
        named = {outcome: {"outcome": outcome} for outcome in OUTCOMES}
        count = self.counters.count
        return {
            "requests": int(count("critic_requests_total")),
            **{f"samples {k}": int(count("critic_samples_total", **v)) for k, v in named.items()},
            "samples truncated": int(count("critic_samples_truncated_total")),
            "tokens computed": int(count("critic_forward_tokens_total")),
        }

    async def judge(self, asked: Asked) -> Answers:
        """Score samples; the answer of a bad one is its error.

        When the caller is cancelled, samples that are not being computed are dropped.

        Raises:
            CriticError: the request has more samples than may wait.
            HTTPException: the critic is still loading (503), or too many samples wait (429).
        """
        if len(asked) > self.limits.max_waiting:
            raise CriticError(
                f"the request has {len(asked)} samples; at most {self.limits.max_waiting} are"
                " accepted at a time, so send several requests"
            )
        critic = self.loaded()
        if self.num_admitted + len(asked) > self.limits.max_waiting:
            self.counters.add("critic_samples_total", len(asked), outcome="refused")
            seconds = self.batcher.retry_seconds
            reason = f"too many samples wait; try again in {seconds} s"
            raise HTTPException(429, reason, {"Retry-After": str(seconds)})
        self.num_admitted += len(asked)
        try:
            answers = await self._answer(critic, asked)
        except asyncio.CancelledError:
            self.counters.add("critic_samples_total", len(asked), outcome="dropped")
            raise
        finally:
            self.num_admitted -= len(asked)
        self._count(answers)
        return answers

    async def _answer(self, critic: Critic, asked: Asked) -> Answers:
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(
            self._encoding, lambda: [self._encode(critic, one) for one in asked]
        )
        samples = [one for one in encoded if isinstance(one, Sample)]
        promises = self.batcher.submit(samples)
        found = iter(await asyncio.gather(*promises, return_exceptions=True))
        return [_to_answer(next(found)) if isinstance(one, Sample) else one for one in encoded]

    def _encode(self, critic: Critic, text: TextSample | ValueError) -> Sample | ValueError:
        if isinstance(text, ValueError):
            return text
        try:
            for name, value in (("prompt", text.prompt), ("output", text.output)):
                if len(value) > self.limits.max_text:
                    raise CriticError(
                        f"the {name} has {len(value):,} characters or ids; at most"
                        f" {self.limits.max_text:,} are accepted"
                    )
            if text.is_rendered and not critic.has_default_prompt:
                raise CriticError(
                    "the text is in the default prompt template, which is not this head's; send"
                    " 'messages', or use /score"
                )
            encoder = critic.samples
            sample = encoder.encode_one(text.prompt, text.output, text.input)
            return sample if text.along is None else encoder.with_prefixes(sample, text.along)
        except ValueError as error:
            return error

    def _judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Score encoded samples; runs in the batcher's thread."""
        self.counters.add("critic_forward_runs_total")
        return self.loaded().judge_samples(samples, self._count_tokens)

    def _count_tokens(self, tokens: int) -> None:
        self.counters.add("critic_forward_tokens_total", tokens)

    def _count(self, answers: Answers) -> None:
        judged = [one for one in answers if isinstance(one, Verdict)]
        self.counters.add("critic_samples_total", len(judged), outcome="judged")
        self.counters.add("critic_samples_total", len(answers) - len(judged), outcome="failed")
        truncated = sum(one.is_truncated for one in judged)
        self.counters.add("critic_samples_truncated_total", truncated)
        self.counters.add("critic_sample_tokens_total", sum(one.num_tokens for one in judged))


def _check(critic: Critic, scale: Scale) -> None:
    """Score two outputs, so that a critic that cannot does not become ready.

    Raises:
        ValueError: the numbers are not finite, or the head has none on this scale.
    """
    samples = critic.samples.encode("Add two numbers.", ["print(a + b)", "return a"])
    for judged in critic.judge_samples(samples):
        judged.on_scale(scale)


def _to_answer(found: Verdict | BaseException) -> Answer:
    """Turn what a computation raised into the sample's error; anything unknown is a fault."""
    if isinstance(found, (Verdict, ValueError)):
        return found
    if not isinstance(found, Exception):
        raise found
    logger.error("a sample could not be computed", exc_info=found)
    return CriticError(f"the sample could not be computed: {one_line(found)}")
