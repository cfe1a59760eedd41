"""What the terminal shows: one console, tables, progress bars, and errors in one line."""

import functools
import inspect
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import typer
from typer.core import TyperCommand, TyperGroup

from configs.options import EXAMPLES, OPTIONS, Chosen, Option
from featurize.errors import one_line
from featurize.io.interrupts import INTERRUPTED, TERMINATED, Terminated, raises_when_terminated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn
    from rich.table import Table

    from featurize.run.plan import FeaturizePlan

UP_TO_DATE = "up to date"
"""What a command says of a result that is there already."""


class _Plain:
    """Shows no type behind a flag, which takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Get the parameters, those of `--help` included."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters

    def get_short_help_str(self, limit: int = 0) -> str:
        """Get the first line of the help, whole: it is one sentence."""
        text: str = getattr(self, "help", None) or ""
        return text.partition("\n")[0]


class _PlainCommand(_Plain, TyperCommand):
    """A command whose help is refilled to the width of the terminal."""

    def __init__(self, *args: Any, help: str | None = None, **options: Any) -> None:
        """Join the lines of each paragraph, which rich would keep as they are in the source."""
        paragraphs = (help or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        super().__init__(*args, help=text, **options)


class _PlainGroup(_Plain, TyperGroup):
    """A group of commands."""


def no_hint(**_: Any) -> str:
    """Nothing to add to the line of a mistake."""
    return ""


class CommandLine(typer.Typer):
    """A group of commands with the options and examples of `configs.options`."""

    def __init__(self, *words: str, **options: Any) -> None:
        """`words` are those that call the group, such as prepare."""
        super().__init__(cls=_PlainGroup, **options)
        self._words = words

    def command(
        self, name: str | None = None, *, hint: Callable[..., str] = no_hint, **options: Any
    ) -> "Callable[..., Any]":
        """Register a command, which `reports_errors`, as typer does."""
        words = " ".join([*self._words, name or ""])
        register = super().command(name, cls=_PlainCommand, epilog=_epilog(words), **options)

        def add(function: Callable[..., None]) -> Callable[..., None]:
            command = reports_errors(function, hint=hint)
            parameters = list(_parameters(function, words))
            # What typer reads of a function.
            command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
            return register(command)

        return add


def _epilog(words: str) -> str | None:
    """The examples of a command as the text below its help; None without any."""
    if words not in EXAMPLES:
        return None
    # Escaped, since rich takes `[mean.12]` for a style and leaves it out.
    return "\n\n".join(["Examples:", *(f"$ {one}" for one in EXAMPLES[words])]).replace("[", "\\[")


def _parameters(command: Callable[..., None], words: str) -> Iterator[inspect.Parameter]:
    """The parameters of a command as typer reads them: each with its option or argument.

    A parameter `chosen` becomes --config and --set; every command has --debug.
    """
    own = inspect.signature(command).parameters
    taken: dict[str, tuple[Any, Any]] = {
        name: (one.annotation, one.default) for name, one in own.items() if name != "chosen"
    }
    if "chosen" in own:
        taken |= {"config": (Path | None, None), "overrides": (list[str] | None, None)}
    described = OPTIONS[""] | OPTIONS.get(words, {})
    for name, (type_, default) in (taken | {"debug": (bool, False)}).items():
        shown = _to_typer(described[name], name, type_, default)
        kind = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(name, kind, default=shown, annotation=type_)


def _to_typer(described: str | Option, name: str, type_: Any, default: Any) -> Any:
    """What typer takes as the default of a parameter; a flag has no `--no-` form."""
    default = ... if default is inspect.Parameter.empty else default
    one = Option(described) if isinstance(described, str) else described
    shown = one.shown or {}
    if one.is_argument:
        return typer.Argument(default, help=one.text, **shown)
    names = one.names or ((f"--{name.replace('_', '-')}",) if type_ is bool else ())
    return typer.Option(default, *names, help=one.text, **shown)


MISTAKE, FAULT = 2, 1
"""Exit codes: the input is wrong, the program is wrong."""


def refuse_torchrun(command: str) -> None:
    """Raise ValueError under torchrun: these commands start processes themselves."""
    if "RANK" in os.environ:
        raise ValueError(f"`critic {command}` starts processes itself; run it without torchrun")


def is_first_process() -> bool:
    """Whether this process reports for the run; of torchrun's ranks only the first does."""
    return os.environ.get("RANK", "0") == "0"


@functools.cache
def console() -> "Console":
    """The console of this process."""
    from rich.console import Console

    # A file or pipe has no width of its own; 80 columns would break paths in two.
    # No markup: names of files, settings and samples may hold brackets.
    is_closed = sys.stdout is None  # `critic ... >&-`
    return Console(
        file=io.StringIO() if is_closed else None,
        soft_wrap=is_closed or not sys.stdout.isatty(),
        highlight=False,
        markup=False,
        quiet=not is_first_process(),
    )


def show_up_to_date(command: str, place: object) -> None:
    """Say that a command found its result at a place and did nothing."""
    console().print(f"{command}: {UP_TO_DATE}, nothing done: {place}")


def expand_home(value: Any) -> Any:
    """Replace a leading `~` in a path, or in each path of a list; the shell may not have."""
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, (str, Path)) and str(value).startswith("~"):
        from featurize.settings import with_home

        return type(value)(with_home(str(value)))
    return value


def reports_errors(
    command: Callable[..., None], *, hint: Callable[..., str] = no_hint
) -> Callable[..., None]:
    """Turn the errors of a command into one line: exit code 2 for mistakes, 1 for faults.

    The command also takes `debug`, to show the traceback instead, and its settings as `config` and
    `overrides`, as the command line has them. `hint` gets the command's arguments and returns what
    to add to the line of a mistake.
    """
    taken = inspect.signature(command).parameters

    @functools.wraps(command)
    def wrapper(
        *args: Any,
        config: Path | None = None,
        overrides: Sequence[str] | None = None,
        debug: bool = False,
        **kwargs: Any,
    ) -> None:
        found = kwargs | {
            "chosen": Chosen(expand_home(config), tuple(overrides or ())),
            "debug": debug,
        }
        kwargs = {name: expand_home(value) for name, value in found.items() if name in taken}
        try:
            with raises_when_terminated():
                command(*args, **kwargs)
        except typer.Exit:
            raise
        except Terminated:
            _fail("terminated (SIGTERM); run the same command again to resume", TERMINATED, debug)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to resume", INTERRUPTED, debug)
        except (ValueError, OSError) as error:
            message = one_line(error) + hint(**kwargs)
            _fail(message, MISTAKE, debug, getattr(error, "details", ()))
        except Exception as error:  # the last stop: anything else is a fault of the program
            reason = f"{type(error).__name__}: {one_line(error)}"
            _fail(f"unexpected {reason} (--debug shows where)", FAULT, debug)

    return wrapper


def end_unmet() -> NoReturn:
    """End a command whose condition does not hold; what it is has been shown."""
    raise typer.Exit(1)


def _fail(message: str, code: int, debug: bool, details: Sequence[str] = ()) -> None:
    if debug:
        raise
    is_shown = code in (MISTAKE, FAULT) or is_first_process()
    if is_shown and sys.stderr is not None:  # None: closed with `2>&-`
        print(*details, f"error: {message}", sep="\n", file=sys.stderr)  # noqa: T201
    raise typer.Exit(code)


def _titled(title: str, **options: Any) -> "Table":
    """A table that is no narrower than its title, which rich would break at the table's width."""
    from rich.table import Table

    width = min(len(title), console().width)
    return Table(title=title, title_justify="left", title_style="bold", min_width=width, **options)


def rows_table(title: str, rows: dict[str, Any]) -> "Table":
    """A table of names and values."""
    table = _titled(title, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # not cut with an ellipsis: commands and paths are copied
    for name, value in rows.items():
        table.add_row(name, show(value))
    return table


def columns_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> "Table":
    """A table with a heading over each column; the first one holds names."""
    table = _titled(title)
    for place, name in enumerate(columns):
        # NOTE: folded, not cut with an ellipsis: names of settings differ at their ends.
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(show, row))
    return table


def show(value: Any) -> str:
    """A value as tables show it: `12,000`, `0.731`, `-` for None."""
    if isinstance(value, float):
        return f"{value:z.3f}"  # z: 0.000, not -0.000
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def quiet_libraries() -> None:
    """Silence warnings and progress bars of libraries.

    NOTE: before the commands import the libraries, which is when they read these.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)


def keep_fonts_in(cache_dir: Path) -> None:
    """Keep matplotlib's list of fonts in the cache.

    NOTE: before the first import of matplotlib, which writes the list.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir.absolute() / "matplotlib"))


def set_up_logging(level: str, line_format: str) -> None:
    """Log our own lines from `level` on, those of libraries from WARNING on."""
    logging.basicConfig(format=line_format, level=logging.WARNING)
    for name in ("cli", "configs", "featurize", "headtrain"):
        logging.getLogger(name).setLevel(level)


class _Bar:
    """A progress bar with one task; it appears when it is started."""

    def __init__(self, *columns: "str | ProgressColumn", **task: Any) -> None:
        from rich.progress import Progress

        self._progress = Progress(*columns, console=console())
        self._task = self._progress.add_task("", **task)
        self._is_started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_started:
            self._progress.stop()  # NOTE: prints an empty line where nothing was started

    def _start(self) -> None:
        self._is_started = True
        self._progress.start()


class CountProgress(_Bar):
    """A bar that counts things; it appears with the first count."""

    def __init__(self, title: str, things: str) -> None:
        from rich import progress as shown

        counted = (shown.MofNCompleteColumn(), things, shown.TimeRemainingColumn())
        super().__init__(title, shown.BarColumn(), *counted, total=None)

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self._start()
        self._progress.update(self._task, completed=done, total=total)


class FeaturizeProgress(_Bar):
    """Shows the plan of a featurize job, then a bar of unique tokens."""

    def __init__(self, title: str) -> None:
        from rich import progress as shown

        counted = "{task.completed:,.0f}/~{task.total:,.0f} tokens {task.fields[speed]}"
        times = (shown.TimeElapsedColumn(), "left", shown.TimeRemainingColumn())
        columns = ("featurize", shown.BarColumn(), counted, *times)
        super().__init__(*columns, start=False, total=0, speed="-/s")
        self._title = title

    def planned(self, plan: "FeaturizePlan") -> None:
        """Show the plan and start the bar."""
        console().print(rows_table(self._title, plan.describe()))
        self._progress.update(self._task, total=plan.estimated_tokens)
        self._progress.start_task(self._task)  # not before: planning may convert a model
        self._start()

    def note(self, text: str) -> None:
        """Print one line above the bar."""
        console().print(text)

    def advance(self, tokens: int) -> None:
        """Show that all ranks have computed this many tokens."""
        # Speed over the whole run: packs finish at intervals of many seconds.
        elapsed = self._progress.tasks[0].elapsed
        speed = f"{tokens / elapsed:,.0f}/s" if elapsed else "-/s"
        self._progress.update(self._task, completed=tokens, speed=speed)

    def finish(self, tokens: int) -> None:
        """Replace the estimated total by the true one."""
        self._progress.update(self._task, completed=tokens, total=tokens)
