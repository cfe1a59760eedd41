"""Runs critic, or a function of a test, as several ranks forked from one warm process."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support import command_line
from tests.support.command_line import REPOSITORY, Outcome, environment

MOST_SECONDS = 240
"""A rank that waits for another one for ever is ended by its alarm."""


class WarmRanks:
    """What torchrun does, without its processes and without seven seconds of imports a rank.

    The first rank holds the key-value store.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_ranks"],
            cwd=REPOSITORY,
            env=environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, folder: Path, num_ranks: int) -> list[Outcome]:
        """Runs a command of critic in `folder` as so many ranks."""
        return self._ask({"arguments": arguments, "folder": str(folder)}, num_ranks)

    def call(self, function: str, *arguments: Any, num_ranks: int) -> list[Outcome]:
        """Calls `module:function` with arguments (JSON) as so many ranks."""
        return self._ask({"call": function, "arguments": arguments}, num_ranks)

    def close(self) -> None:
        """Ends the warm process."""
        self._server.communicate(timeout=60)

    def _ask(self, task: dict[str, Any], num_ranks: int) -> list[Outcome]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        homes = [self.home / f"rank-{rank}" for rank in range(num_ranks)]
        for home in homes:
            home.mkdir(exist_ok=True)
        ranks = [task | {"home": str(home), "most_bytes": None} for home in homes]
        self._server.stdin.write(json.dumps(ranks) + "\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        return [
            Outcome(code=code, out=(home / "stdout").read_text(), err=(home / "stderr").read_text())
            for code, home in zip(codes, homes, strict=True)
        ]


def serve(requests: Iterator[str]) -> None:
    """Forks the ranks of every request and answers with their exit codes."""
    command_line._import_like_a_command()
    importlib.import_module("torch.distributed.fsdp")
    importlib.import_module("transformers.distributed.configuration_utils")
    for line in requests:
        ranks = json.loads(line)
        port = free_port()
        children = [start_rank(rank, task, len(ranks), port) for rank, task in enumerate(ranks)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        sys.stdout.write(f"{json.dumps(list(map(os.waitstatus_to_exitcode, statuses)))}\n")
        sys.stdout.flush()


def start_rank(rank: int, task: dict[str, Any], world_size: int, port: int) -> int:
    """The process id of a fork that is this rank."""
    child = os.fork()
    if child:
        return child
    signal.alarm(MOST_SECONDS)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if "call" in task:
        call_function(task)
    command_line._become_critic(task)
    raise AssertionError("never reached")


def call_function(task: dict[str, Any]) -> None:
    """Never returns: calls what the task names, its output in files."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(Path(task["home"]) / name, flags, mode=0o600), descriptor)
    code = 1
    try:
        module, _, function = task["call"].partition(":")
        arguments: Sequence[Any] = task["arguments"]
        getattr(importlib.import_module(module), function)(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()  # as the interpreter would
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    serve(iter(sys.stdin.readline, ""))
