"""What every command does alike: its options, its configuration, its errors in one line."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configs.terminal import console, one_line, set_up_logging

if TYPE_CHECKING:
    from configs.config import Config
    from configs.paths import Layout

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file", show_default="configs/critic_pairwise.yaml"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."),
]
SplitOption = Annotated[str, typer.Option(help="train, valid or test")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run left.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


TERMINATED = 128 + signal.SIGTERM
"""Exit code of a command that ended because it was asked to."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: the machine goes down, or the job's time is over."""


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns errors into one line: exit code 2 for the user's mistakes, 1 for ours."""

    @functools.wraps(command)
    def wrapper(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            with _raises_when_terminated():
                command(*args, debug=debug, **kwargs)
        except typer.Exit:
            raise
        except (ValueError, OSError) as error:
            _fail(one_line(error), 2, debug, getattr(error, "details", ()))
        except Terminated:
            _fail("terminated (SIGTERM); run the same command again to go on", TERMINATED, debug)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to go on", 130, debug)
        except Exception as error:  # the last stop: anything else is a fault of the program
            reason = f"{type(error).__name__}: {one_line(error)}"
            _fail(f"unexpected {reason} (--debug shows where)", 1, debug)

    return wrapper


@contextlib.contextmanager
def _raises_when_terminated() -> Iterator[None]:
    """SIGTERM unwinds the block as Ctrl-C does: what is being written is finished or dropped."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would tear the unwinding
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # where signals cannot be heard
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def load_settings(config: Path | None, overrides: list[str] | None) -> "tuple[Config, Layout]":
    """The configuration and where its files lie; says on what terms some keys are honoured."""
    from configs.loader import load_config, notes
    from configs.paths import Layout

    settings = load_config(config, overrides or [])
    set_up_logging(settings.logging.level, settings.logging.format)
    if os.environ.get("RANK", "0") == "0" and "CRITIC_LAUNCHED" not in os.environ:
        for line in notes(settings):
            console().print(f"note: {line}", style="dim")
    return settings, Layout.from_config(settings)


def _fail(message: str, code: int, debug: bool, details: Sequence[str] = ()) -> None:
    if debug:
        raise
    if "RANK" in os.environ and not _is_to_report(code):
        raise typer.Exit(code)
    print(*details, f"error: {message}", sep="\n", file=sys.stderr)  # noqa: T201
    raise typer.Exit(code)


def _is_to_report(code: int) -> bool:
    """Whether this worker tells of the failure; interrupted ones leave it to their parent."""
    from featurize.run.launch import LAUNCHED, claim_report

    if code in (130, TERMINATED):
        return LAUNCHED not in os.environ and os.environ["RANK"] == "0"
    return claim_report()
