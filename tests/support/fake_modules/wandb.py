"""A double of wandb for commands: writes what it is given as JSON lines to $FAKE_WANDB."""

import json
import os
from pathlib import Path
from typing import Any


def _note(**call: Any) -> None:
    with Path(os.environ["FAKE_WANDB"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(call) + "\n")


class Settings(dict[str, Any]):
    """Takes any setting."""


class Run:
    """Notes what is logged to it."""

    def __init__(self, name: str, folder: str) -> None:
        self.id = name
        self.dir = folder

    def define_metric(self, name: str, *, step_metric: str) -> None:
        _note(call="define_metric", name=name, step_metric=step_metric)

    def log(self, metrics: dict[str, float]) -> None:
        _note(call="log", run=self.id, metrics=metrics)

    def save(self, file: str, *, base_path: str, policy: str, glob: bool) -> None:
        name = Path(file).relative_to(base_path)
        _note(call="save", run=self.id, file=str(name), size=Path(file).stat().st_size)

    def finish(self, exit_code: int = 0) -> None:
        _note(call="finish", run=self.id, exit_code=exit_code)


def init(*, dir: str, id: str | None = None, **options: Any) -> Run:
    """Opens a run whose files are below `dir`."""
    _note(call="init", run=id, project=options["project"], config=options.get("config"))
    return Run(id or "new", f"{dir}/files-of-{id}")
