"""How things look on a terminal: one console, tables of named values, errors in one line."""

import _thread
import errno
import functools
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@functools.cache
def console() -> "Console":
    """The console of this process."""
    from rich.console import Console

    # A file or pipe has no width of its own; 80 columns would break paths in two.
    # No markup: names of files, settings and samples may hold brackets.
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def rows_table(title: str, rows: dict[str, Any]) -> "Table":
    """A table of names and values."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, title_style="bold")
    for name, value in rows.items():
        table.add_row(name, show(value))
    return table


def columns_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> "Table":
    """A table with a heading over each column; the first one holds names."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for place, name in enumerate(columns):
        # NOTE: folded, not cut with an ellipsis: names of settings differ at their ends.
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(show, row))
    return table


def show(value: Any) -> str:
    """A value as a table has it: `12,000`, `0.731`, `-` for nothing."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def one_line(error: BaseException) -> str:
    """The message of an error; of an OSError what, and of which file."""
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return f"{what}; make room and rerun" if error.errno in FULL_DISK else what
    # A configuration has a line for each of its problems; any other error says it in its first.
    return str(error) if isinstance(error, ValueError) else str(error).partition("\n")[0]


def quiet_libraries() -> None:
    """Silences warnings and bars that speak to whoever writes the program.

    NOTE: before the commands import the libraries, which is when they read these.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)


def keep_interrupts() -> None:
    """Sees to it that Ctrl-C is not lost, nor a traceback shown, when it hits a destructor.

    Python prints what is raised there and goes on as if nothing had happened.
    """
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)
            return
        again = threading.Timer(0.01, _thread.interrupt_main)  # not from in here: lost once more
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


def set_up_logging(level: str, line_format: str) -> None:
    """Our own log lines from `level` on, of others only warnings."""
    logging.basicConfig(format=line_format, level=logging.WARNING)
    for name in ("cli", "configs", "featurize", "headtrain"):
        logging.getLogger(name).setLevel(level)
