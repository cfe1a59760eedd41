"""`critic serve` as a process: clients at once, clients that break off, and SIGTERM."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from headtrain.rewards import critic_reward
from headtrain.scoring.critic import Critic
from tests.support.command_line import finish, start_critic
from tests.support.processes import wait_until
from tests.support.scored_projects import make_project

pytestmark = pytest.mark.slow

PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that is ready."""

    process: subprocess.Popen[str]
    url: str
    critic: Critic

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def get(self, path: str) -> str:
        with urlopen(self.url + path, timeout=PATIENCE) as response:
            return str(response.read().decode())

    def metric(self, line: str) -> float:
        """The number behind the beginning of a line."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    project = make_project(tmp_path / "project")
    command = ["serve", "--head", str(project.head), "--port", "0", "--device", "cpu"]
    process = start_critic(*command, "--window-ms", "300", folder=tmp_path, home=tmp_path / "home")
    assert process.stdout is not None
    process.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert url is not None
    served = Served(process=process, url=url[0], critic=Critic.load(project.head, device="cpu"))
    wait_until(lambda: is_ready(served))
    yield served
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def is_ready(served: Served) -> bool:
    with contextlib.suppress(OSError):
        return "ready" in served.get("/ready")
    return False


def openrlhf_reward(url: str, query: str, prompt: str) -> dict[str, Any]:
    """OpenRLHF's loop (openrlhf/utils/remote_rm_utils.py): five attempts of 180 s."""
    data = json.dumps({"query": [query], "prompts": [prompt], "labels": [""]}).encode()
    for _ in range(5):
        request = Request(f"{url}/get_reward", data, {"Content-Type": "application/json"})
        with contextlib.suppress(OSError), urlopen(request, timeout=180) as response:
            reply: dict[str, Any] = json.load(response)
            return reply
        time.sleep(1)
    raise AssertionError("no reward")


def test_clients_get_their_own_rewards_and_sigterm_answers_those_that_wait(
    served: Served,
) -> None:
    pairs = [(f"Solve task {n % 8}.", f"x = {n}") for n in range(64)]
    values = [served.critic.score(prompt, [output])[0] for prompt, output in pairs]
    expected = [pytest.approx(2 * value + 0.5, abs=1e-4) for value in values]
    check_openrlhf(served, pairs, expected)
    check_reward_functions(served, pairs[:16], expected[:16])
    check_broken_clients(served)
    check_drain(served)


def check_openrlhf(served: Served, pairs: list[tuple[str, str]], expected: list[Any]) -> None:
    with ThreadPoolExecutor(64) as pool:
        replies = list(
            pool.map(lambda pair: openrlhf_reward(served.url, "".join(pair), pair[0]), pairs)
        )
    assert [reply["rewards"][0] for reply in replies] == expected
    assert served.metric('critic_samples_total{outcome="judged"}') == 64


def check_reward_functions(
    served: Served, pairs: list[tuple[str, str]], expected: list[Any]
) -> None:
    prompts, outputs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    reward: Any = critic_reward(url=served.url)
    assert asyncio.run(reward([*prompts, "a"], [*outputs, "\n"])) == [*expected, None]
    assert reward.counts == {"judged": 16, "empty": 1}


def check_broken_clients(served: Served) -> None:
    """One breaks off within its request, one sends no HTTP at all."""
    head = "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for start in (f"{head}Content-Length: 1000\r\n\r\n{{", "\x16\x03\x01 no HTTP\r\n\r\n"):
        with socket.create_connection(served.address) as client:
            client.sendall(start.encode("latin-1"))
    wait_until(lambda: served.metric('critic_requests_total{endpoint="/score",status="499"}') == 1)
    body = {"prompt": "Add.", "outputs": ["x"]}
    assert ask(served, body)[0] == 200


def ask(served: Served, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(*served.address, timeout=PATIENCE)
    connection.request("POST", "/score", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def check_drain(served: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        reply = ask_until_it_waits(served, pool)
        served.process.send_signal(signal.SIGTERM)
        status, found = reply.result(PATIENCE)
    assert status == 200
    assert len(found["values"]) == 1
    outcome = finish(served.process)
    assert outcome.code == 0, outcome.err
    assert "samples judged" in outcome.out
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(served.address)


def ask_until_it_waits(
    served: Served, pool: ThreadPoolExecutor
) -> "Future[tuple[int, dict[str, Any]]]":
    """Ask, as often as it takes to see a sample wait for the server's window."""
    while True:
        reply = pool.submit(ask, served, {"prompt": "Add.", "outputs": ["x"]})
        while not reply.done():
            if served.metric("critic_waiting_samples") == 1:
                return reply
