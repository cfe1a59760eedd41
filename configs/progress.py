"""Progress lines for long jobs: how far, how fast, how long still."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Bar:
    """A bar with one task, shown while its block runs."""

    def __init__(self, console: Console, *columns: ProgressColumn, total: int | None) -> None:
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()


class CountProgress(_Bar):
    """Counts things of which the total is known once the work begins."""

    def __init__(self, console: Console, title: str, things: str) -> None:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(things))
        super().__init__(console, *columns, TimeRemainingColumn(), total=None)
        self._is_shown = False

    def __enter__(self) -> Self:
        return self  # shown with the first count: there may be nothing to do

    def __exit__(self, *error: object) -> None:
        if self._is_shown:
            super().__exit__(*error)

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` are done."""
        if not self._is_shown:
            self._is_shown = True
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)


class TokenProgress(_Bar):
    """Follows a featurize run in unique tokens; only the first rank shows it."""

    def __init__(self, console: Console, estimated_tokens: int, *, is_shown: bool) -> None:
        columns = (TextColumn("featurize"), BarColumn(), _TokensColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        super().__init__(console, *columns, *times, total=estimated_tokens)
        self._progress.disable = not is_shown

    def note(self, text: str) -> None:
        """One line above the bar."""
        self._progress.console.print(text)

    def advance(self, tokens: int) -> None:
        """All ranks have computed so many tokens by now."""
        self._progress.update(self._task, completed=tokens)

    def finish(self, tokens: int) -> None:
        """The estimate gives way to what it was."""
        self._progress.update(self._task, completed=tokens, total=tokens)


class _TokensColumn(ProgressColumn):
    """Tokens done, of about how many, and how many a second."""

    def render(self, task: Task) -> Text:
        """`12,000/~80,000 tokens 210/s`."""
        # Over the whole run: packs come in at intervals of many seconds.
        speed = f"{task.completed / task.elapsed:,.0f}/s" if task.elapsed else "-/s"
        return Text(f"{task.completed:,.0f}/~{task.total or 0:,.0f} tokens {speed}")
