"""Runs critic's commands as a shell would, in a fresh process or forked from a warm one."""

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import REPOSITORY
from tests.support.row_files import read_rows

MOST_SECONDS = 240
"""A rank that waits for another one for ever is ended by its alarm."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind."""

    code: int  # negative: the signal that ended it
    out: str
    err: str


def environment(home: Path) -> dict[str, str]:
    """The variables a command runs with: nothing of the caller's home or launcher."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return kept | {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "240",  # tables in one piece
    }


def start_critic(*arguments: str, folder: Path, home: Path) -> subprocess.Popen[str]:
    """Starts `python -m cli` in `folder`, at the head of its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=folder,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_critic(*arguments: str, folder: Path, home: Path) -> Outcome:
    """Runs `python -m cli` in `folder` to its end."""
    process = start_critic(*arguments, folder=folder, home=home)
    return finish(process)


def finish(process: subprocess.Popen[str], timeout: float = 300) -> Outcome:
    """Waits for a started command."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Outcome(code=process.returncode, out=out, err=err)


class WarmCritic:
    """Runs commands in forks of a process that has torch and transformers imported already.

    A fresh process spends seven seconds on imports; a dozen of commands that fail early would take
    minutes. What a fork does is what `python -m cli` does, its limits and output included.
    """

    def __init__(self, home: Path, variables: Mapping[str, str] | None = None) -> None:
        """`variables` are added to the environment of the commands."""
        self.home = home
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.command_line"],
            cwd=REPOSITORY,
            env=environment(home) | dict(variables or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *arguments: str,
        folder: Path,
        most_bytes: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Runs a command in `folder`; a file may not grow beyond `most_bytes`.

        `variables` are added to its environment.
        """
        task = {"arguments": arguments, "folder": str(folder), "home": str(self.home)}
        more = {"most_bytes": most_bytes, "variables": dict(variables or {})}
        return self._ask([task | more])[0]

    def run_ranks(self, *arguments: str, folder: Path, num_ranks: int) -> list[Outcome]:
        """Runs a command in `folder` as so many ranks, as torchrun does."""
        return self._ask_ranks({"arguments": arguments, "folder": str(folder)}, num_ranks)

    def call_ranks(self, function: str, *arguments: Any, num_ranks: int) -> list[Outcome]:
        """Calls `module:function` with arguments (JSON) as so many ranks."""
        return self._ask_ranks({"call": function, "arguments": arguments}, num_ranks)

    def _ask_ranks(self, task: dict[str, Any], num_ranks: int) -> list[Outcome]:
        """The first rank holds the key-value store."""
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            common[name] = str(num_ranks)
        tasks = []
        for rank in range(num_ranks):
            home = self.home / f"rank-{rank}"
            home.mkdir(exist_ok=True)
            variables = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            tasks.append(task | {"home": str(home), "variables": variables, "is_rank": True})
        return self._ask(tasks)

    def _ask(self, tasks: list[dict[str, Any]]) -> list[Outcome]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(tasks) + "\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        outcomes = []
        for code, task in zip(codes, tasks, strict=True):
            out, err = (Path(task["home"], name).read_text() for name in ("stdout", "stderr"))
            outcomes.append(Outcome(code=code, out=out, err=err))
        return outcomes

    @property
    def process_id(self) -> int:
        """The warm process; a command that runs is its child."""
        return self._server.pid

    def close(self) -> None:
        """Ends the warm process."""
        self._server.communicate(timeout=60)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class CriticProject:
    """A folder in which commands run."""

    folder: Path
    critic: WarmCritic

    def run(self, *arguments: str, code: int = 0, **where: Any) -> Outcome:
        """Runs a command, here unless `folder` says where; fails unless it exits with `code`."""
        outcome = self.critic.run(*arguments, **{"folder": self.folder, **where})
        assert outcome.code == code, outcome.err
        return outcome

    def read(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file of JSON lines."""
        return read_rows(self.folder / name)

    @property
    def head(self) -> Path:
        """The best head of the demo's experiment."""
        return self.folder / "storage/checkpoints/critic/demo/best"


def serve(requests: Iterator[str]) -> None:
    """Forks for every task of a request and answers with their exit codes."""
    _import_like_a_command()
    for line in requests:
        children = [_fork(task) for task in json.loads(line)]
        statuses = [os.waitpid(child, 0)[1] for child in children]
        sys.stdout.write(f"{json.dumps(list(map(os.waitstatus_to_exitcode, statuses)))}\n")
        sys.stdout.flush()


def _import_like_a_command() -> None:
    """What commands import, after the variables that they set before it."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in (
        "featurize.run.compute",
        "headtrain.training.run",
        "headtrain.evaluation.evaluate",
        "mlflow",
    ):
        importlib.import_module(name)


def _fork(task: dict[str, Any]) -> int:
    if task.get("is_rank"):  # once, in the parent
        importlib.import_module("torch.distributed.fsdp")
        importlib.import_module("transformers.distributed.configuration_utils")
    child = os.fork()
    if child == 0:
        _become(task)
    return child


def _become(task: dict[str, Any]) -> None:
    """Never returns: runs the command, or calls the function, as this process's main program."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(Path(task["home"]) / name, flags, mode=0o600), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(task["variables"])
    if task.get("is_rank"):
        signal.alarm(MOST_SECONDS)
    if task.get("most_bytes") is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: the write fails instead
        sys.dont_write_bytecode = True  # or half a .pyc file would break every later command
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["most_bytes"],) * 2)
    code = 1
    try:
        _run(task)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()  # as the interpreter would
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(task: dict[str, Any]) -> None:
    if "call" in task:
        module, _, function = task["call"].partition(":")
        getattr(importlib.import_module(module), function)(*task["arguments"])
        return
    os.chdir(task["folder"])
    sys.argv = ["critic", *task["arguments"]]
    import cli

    cli.app()


if __name__ == "__main__":
    serve(iter(sys.stdin.readline, ""))
