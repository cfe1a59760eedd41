"""Checks of how a command is run: under torchrun, with options that exclude each other."""

import os
from pathlib import Path
from typing import Any


def demo_hint(*, config: Path | None, overrides: list[str] | None, **_: Any) -> str:
    """For whoever runs the production configuration and has no features yet."""
    from configs.project import has_features  # NOTE: only now, as help loads nothing heavy

    if config is not None or has_features(overrides or []):
        return ""
    return (
        " (without --config this is the production configuration; `--config configs/demo.yaml`"
        " needs neither a GPU nor a download)"
    )


def refuse_unknown_baseline(baseline: str | None, data: str | None) -> None:
    """Raise ValueError for a baseline that does not exist or does not fit."""
    if baseline is None:
        return
    if baseline != "random-backbone":
        raise ValueError(f"--baseline {baseline!r} is unknown; there is random-backbone")
    if data is not None:
        raise ValueError("--baseline is trained for splits; leave it or --data out")
    refuse_torchrun("eval --baseline random-backbone")


def refuse_unknown_export(export: str | None, data: str | None) -> None:
    """Raise ValueError for an export of an evaluation that does not exist or does not fit."""
    if export is not None and export != "rewardbench":
        raise ValueError(f"--export {export!r} is unknown; the only one is rewardbench")
    if export is not None and data is None:
        raise ValueError(f"--export {export} needs --data, a file of pairs; see docs/evaluation.md")


def refuse_torchrun(command: str) -> None:
    """Raise ValueError under torchrun: these commands start processes themselves."""
    if "RANK" in os.environ:
        raise ValueError(f"`critic {command}` starts processes itself; run it without torchrun")


def refuse_options_of_torchrun(nproc_per_node: int | None, overwrite: bool) -> None:
    """Raise ValueError for options that only the process that starts the others can honour."""
    if nproc_per_node is not None:
        raise ValueError(
            f"--nproc-per-node {nproc_per_node} comes after the command, but torchrun starts the"
            " processes: give it to torchrun, before -m cli"
        )
    if overwrite:
        raise ValueError(
            "--overwrite is not for torchrun, whose restarts would delete finished units; delete"
            " the store's folder before"
        )
