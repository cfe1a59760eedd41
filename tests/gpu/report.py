"""What the check of a GPU found: PASS, FAIL or SKIP for each check, tables of numbers, JSON."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Skip(Exception):
    """The check cannot be made here; the message says why."""


class OutOfTime(Skip):
    """The minutes of the whole check are over."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a check measured."""

    error: float | None = None
    limit: float | None = None  # the largest error that passes
    path: str = ""  # the code that ran, such as the name of a kernel
    note: str = ""


@dataclass
class Report:
    """Collects results, prints them as they come, and knows the time that is left."""

    minutes: float
    checks: list[Row] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    facts: Row = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def has_failed(self) -> bool:
        """Whether any check failed."""
        return any(row["status"] == "FAIL" for row in self.checks)

    def spend(self) -> None:
        """Raise OutOfTime if no minutes are left for another measurement."""
        if time.monotonic() - self.started > 60 * self.minutes:
            raise OutOfTime(f"the {self.minutes:g} minutes are over (--minutes)")

    def check(self, name: str, run: Callable[[], Found]) -> None:
        """Make a check: it passes if its error is within the limit, and fails if it raises."""
        started = time.monotonic()
        try:
            self.spend()
            found = run()
            status = "PASS" if _is_within(found) else "FAIL"
        except Skip as reason:
            found, status = Found(note=str(reason)), "SKIP"
        except Exception as error:
            found, status = Found(note=_line(error)), "FAIL"
        self._add(name, status, found, seconds=time.monotonic() - started)

    def section(self, name: str, run: Callable[[], object]) -> None:
        """Run a part that makes checks; if it breaks off it fails, and the next part runs."""

        def whole() -> Found:
            run()
            return Found()

        self.check(f"{name} ran to its end", whole)

    def measure(self, table: str, run: Callable[[], Row], **known: Any) -> Row | None:
        """Add a row of numbers to a table; None and a SKIP if it cannot be measured."""
        name = f"{table}: " + ", ".join(f"{key} {value}" for key, value in known.items())
        try:
            self.spend()
            row = {**known, **run()}
        except Skip as reason:
            self._add(name, "SKIP", Found(note=str(reason)))
            return None
        except Exception as error:
            self._add(name, "FAIL", Found(note=_line(error)))
            return None
        self.tables.setdefault(table, []).append(row)
        print(f"{table}: " + ", ".join(f"{key} {_cell(row[key])}" for key in row), flush=True)
        return row

    def _add(self, name: str, status: str, found: Found, seconds: float = 0.0) -> None:
        row = {"check": name, "status": status, **asdict(found), "seconds": round(seconds, 3)}
        self.checks.append(row)
        numbers = ""
        if found.error is not None and found.limit is not None:
            numbers = f" {found.error:.2e} (limit {found.limit:.1e})"
        parts = (f"{status} {name}:{numbers}", found.path, found.note)
        print(" ".join(part for part in parts if part), flush=True)

    def print_tables(self) -> None:
        """Print every table as Markdown."""
        for name, rows in self.tables.items():
            print(f"\n### {name}\n")
            print("\n".join(to_markdown(rows)))
        counts = Counter(row["status"] for row in self.checks)
        print("\n" + ", ".join(f"{counts[status]} {status}" for status in ("PASS", "FAIL", "SKIP")))

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        content = {
            "facts": self.facts,
            "checks": self.checks,
            "tables": self.tables,
            "seconds": time.monotonic() - self.started,
        }
        path.write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")


def to_markdown(rows: Sequence[Row]) -> list[str]:
    """The lines of a table; its columns are those of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in columns) + " |")
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_within(found: Found) -> bool:
    if found.error is None:
        return True
    return found.limit is not None and math.isfinite(found.error) and found.error <= found.limit


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as text."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
