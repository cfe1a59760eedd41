"""Counts what a server does, in the text format of Prometheus."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

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
    shown = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{shown}}}" if shown else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
