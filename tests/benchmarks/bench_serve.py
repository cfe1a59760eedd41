"""Prints how fast `critic serve` answers single samples, beside plain servers, in one run.

    make bench-serve ARGS="--seconds 20"
    make bench-serve ARGS="--soak 10"

Clients ask about one sample a request, as OpenRLHF, slime and verl do: eight candidates a prompt,
one prompt after the other, a new request when the last is answered. The servers are processes of
one core with the same random backbone:

- `critic serve`: samples that wait share the prompt;
- without grouping: the same server, every (prompt, output) computed on its own, in batches;
- plain transformers: a sequence-classification model behind starlette, a forward per request.

`--soak MINUTES` loads the first with 64 clients and checks every answer against the critic in this
process, and the memory of the server.
"""

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headtrain.scoring.critic import Critic
from tests.benchmarks.measuring import print_header, print_row
from tests.support.scored_projects import make_project

CANDIDATES, CLIENTS = 8, (1, 8, 64)
ROUNDS = 3
PLAIN = "plain transformers"
SERVERS = {PLAIN: "plain", "without grouping": "ungrouped", "critic serve": "grouped"}
BACKBONE = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "intermediate_size": 512,
}
MOST_GROWTH = 1.05
"""Of the server's memory, from the second quarter of a soak to its last."""

Sample = tuple[str, str]


@dataclass
class Load:
    """Answers of one server to clients that never pause."""

    seconds: list[float] = field(default_factory=list)
    values: dict[Sample, set[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    num_sent: int = 0
    elapsed: float = 0.0
    """Seconds until the last reply."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes under load")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(
            Path(folder), "dataset.max_length=1024", "featurize.layers=[-1]", backbone=BACKBONE
        )
        if options.soak:
            soak(str(project.head), options.soak)
        else:
            compare(str(project.head), options.seconds)


def compare(head: str, seconds: float) -> None:
    """Print a row per server and number of clients: medians of rounds that take turns."""
    samples = make_samples(200)
    first = Critic.load(head, device="cpu").samples.encode_one(*samples[0])
    sizes = f"of about {len(first.prompt)} tokens, each of about {len(first.output)}"
    print(f"{CANDIDATES} candidates a prompt {sizes}\n")
    numbers = ("requests/s", "vs plain", "CPU ms a request", "p50 ms", "p95", "p99")
    print_header("server", "clients", *numbers)
    with contextlib.ExitStack() as stack:
        servers = {n: stack.enter_context(started(kind, head)) for n, kind in SERVERS.items()}
        for clients in CLIENTS:
            rounds = [
                {n: measure(*server, samples, clients, seconds) for n, server in servers.items()}
                for _ in range(ROUNDS)
            ]
            for name in SERVERS:
                print_row(name, clients, *to_numbers(name, rounds))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A server under load for a while."""

    speed: float
    cpu: float
    """Milliseconds of the server's process a request: does not depend on what else runs."""
    latencies: list[float]


def measure(
    port: int, process: "subprocess.Popen[str]", samples: list[Sample], clients: int, seconds: float
) -> Measured:
    before = cpu_seconds(process.pid)
    load = put_load(port, samples, clients, seconds)
    assert not load.failures, load.failures[0]
    used = cpu_seconds(process.pid) - before
    return Measured(
        speed=len(load.seconds) / load.elapsed,
        cpu=1000 * used / len(load.seconds),
        latencies=load.seconds,
    )


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def to_numbers(name: str, rounds: list[dict[str, Measured]]) -> tuple[str, ...]:
    middle = statistics.median
    cuts = statistics.quantiles([s for one in rounds for s in one[name].latencies], n=100)
    return (
        f"{middle(one[name].speed for one in rounds):.1f}",
        f"{middle(one[name].speed / one[PLAIN].speed for one in rounds):.2f}x",
        f"{middle(one[name].cpu for one in rounds):.1f}",
        *(f"{1000 * cuts[percent - 1]:.0f}" for percent in (50, 95, 99)),
    )


def soak(head: str, minutes: float) -> None:
    """Load a server for minutes; fails if a reply is lost or mixed up, or memory grows."""
    samples = make_samples(40)
    critic = Critic.load(head, device="cpu")
    expected = {s: critic.score(s[0], [s[1]])[0] for s in samples}
    with started("grouped", head) as (port, process):
        memory: list[int] = []
        ended = threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(process.pid, memory, ended))
        watcher.start()
        load = put_load(port, samples, CLIENTS[-1], 60 * minutes)
        ended.set()
        watcher.join()
    scale = max(map(abs, expected.values()))
    wrong = [
        sample
        for sample, values in load.values.items()
        if any(abs(value - expected[sample]) > 1e-5 * scale for value in values)
    ]
    quarter = max(1, len(memory) // 4)
    before, after = max(memory[quarter : 2 * quarter] or memory), max(memory[-quarter:])
    print(f"{load.num_sent} requests in {minutes:g} min, {len(load.seconds)} replies")
    print(f"{len(load.failures)} failures, {len(wrong)} samples with another's value")
    print(f"memory {before / 2**20:.0f} MiB in the second quarter, {after / 2**20:.0f} in the last")
    is_lost = load.num_sent != len(load.seconds) + len(load.failures)
    if load.failures or wrong or is_lost or after > MOST_GROWTH * before:
        raise SystemExit("the soak failed")


def watch_memory(pid: int, memory: list[int], ended: threading.Event) -> None:
    """Append the resident bytes of a process, every second."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not ended.wait(1.0):
        memory.append(page * int(Path(f"/proc/{pid}/statm").read_text().split()[1]))


def make_samples(num_prompts: int) -> list[Sample]:
    """Prompts of some hundred tokens with their candidates, those of a prompt in a row."""
    draw = random.Random(0)
    words = ("read", "two", "numbers", "and", "print", "their", "sum", "list", "return", "add")
    return [
        (prompt, f"# {prompt[:12]} {number}\n" + f"x{number} = a + b\nprint(x{number})\n" * 3)
        for place in range(num_prompts)
        for prompt in [f"Task {place}: " + " ".join(draw.choices(words, k=60))]
        for number in range(CANDIDATES)
    ]


def put_load(port: int, samples: list[Sample], clients: int, seconds: float) -> Load:
    """Ask from as many threads as there are clients, until the time is over."""
    load, stream = Load(), itertools.cycle(samples)
    began = time.monotonic()
    end = began + seconds
    threads = [
        threading.Thread(target=ask_until, args=(port, stream, load, end)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.elapsed = time.monotonic() - began
    return load


def ask_until(port: int, stream: Iterator[Sample], load: Load, end: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    while time.monotonic() < end:
        with load.lock:
            prompt, output = next(stream)
            load.num_sent += 1
        body = json.dumps({"prompt": prompt, "outputs": [output]})
        began = time.monotonic()
        connection.request("POST", "/score", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        with load.lock:
            if response.status != 200:
                load.failures.append(f"{response.status}: {content[:200]!r}")
                continue
            load.seconds.append(time.monotonic() - began)
            value = json.loads(content)["values"][0]
            load.values.setdefault((prompt, output), set()).add(value)


@contextlib.contextmanager
def started(kind: str, head: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Run a server in a process of its own until the block ends."""
    command = [sys.executable, __file__, "--serve", kind, head]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        while not is_ready(port):
            time.sleep(0.1)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    return False


# --- the servers


def serve(kind: str, head: str) -> None:
    """Serve, and print the port first."""
    torch.set_num_threads(1)
    if kind == "plain":
        serve_plainly(Critic.load(head, device="cpu"))
        return
    from headtrain.scoring.server.run import Server

    def load() -> Critic:
        critic = Critic.load(head, device="cpu")
        if kind == "ungrouped":
            critic._engine.forward = "padded"  # every (prompt, output) on its own
        return critic

    server = Server(load, model="bench", host="127.0.0.1", port=0)
    print(server.url.rpartition(":")[2], flush=True)
    server.run()


def serve_plainly(critic: Critic) -> None:
    """A reward server as people write it: tokenize, one forward, one number."""
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from transformers import AutoModelForSequenceClassification

    config = critic._engine.backbone.decoder.config
    config.num_labels = 1
    config.pad_token_id = 1
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    lock = threading.Lock()

    def judge(prompt: str, output: str) -> float:
        sample = critic.samples.encode_one(prompt, output)
        with lock, torch.inference_mode():
            ids = torch.tensor([sample.prompt + sample.output])
            return float(model(input_ids=ids).logits[0, 0])

    async def score(request: Request) -> JSONResponse:
        body: dict[str, Any] = await request.json()
        value = await asyncio.to_thread(judge, body["prompt"], body["outputs"][0])
        return JSONResponse({"values": [value]})

    async def ready(_request: Request) -> JSONResponse:
        return JSONResponse({})

    app = Starlette(routes=[Route("/score", score, methods=["POST"]), Route("/ready", ready)])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
