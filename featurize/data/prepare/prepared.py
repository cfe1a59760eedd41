"""What a prepared dataset holds and was made from, kept beside it so that a rerun does nothing."""

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from featurize.errors import CriticError
from featurize.io.files import read_json, write_json

FORMAT_VERSION = 1


@dataclass(kw_only=True, slots=True)
class Counts:
    """Accounts for every problem and sample read for one file; filled while it is written."""

    problems: int = 0
    correct: int = 0
    incorrect: int = 0
    unlabelled: int = 0
    problems_left_out: Counter[str] = field(default_factory=Counter)  # reason -> number
    samples_left_out: Counter[str] = field(default_factory=Counter)

    def add(self, is_correct: bool | None) -> None:
        """One more sample written."""
        if is_correct is None:
            self.unlabelled += 1
        elif is_correct:
            self.correct += 1
        else:
            self.incorrect += 1

    @property
    def samples(self) -> int:
        """Samples written."""
        return self.correct + self.incorrect + self.unlabelled

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What to_json made of counts."""
        counters = {name: Counter(values[name]) for name in values if name.endswith("_left_out")}
        return cls(**{**values, **counters})

    def to_json(self) -> dict[str, Any]:
        """Every number by its name."""
        # NOTE: asdict would rebuild a Counter from its items, and so count the items.
        return {
            key: dict(value) if isinstance(value, Counter) else value
            for key, value in ((field.name, getattr(self, field.name)) for field in fields(self))
        }

    def describe(self) -> dict[str, int]:
        """What there is of what, in the order it is shown."""
        rows = {"problems": self.problems, "correct": self.correct, "incorrect": self.incorrect}
        if self.unlabelled:
            rows["without a label"] = self.unlabelled
        if not self.problems and not self.problems_left_out:
            del rows["problems"]  # they were not looked at
        for things in ("problems", "samples"):
            for reason, number in getattr(self, f"{things}_left_out").most_common():
                rows[f"left out: {things} {reason}"] = number
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The content of the summary file, which is written last."""

    command: str  # as in "prepare codecontests"
    recipe: dict[str, Any]  # all that decides the content: settings, and the files read
    counts: dict[str, Counts] = field(default_factory=dict)  # part of the dataset -> its counts
    files: dict[str, int] = field(default_factory=dict)  # path from the summary's folder -> bytes
    details: dict[str, Any] = field(default_factory=dict)  # what else there is to say
    was_up_to_date: bool = False  # nothing was done: it was there already

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        recipe: dict[str, Any],
        *,
        targets: Collection[Path],
        overwrite: bool,
    ) -> Self:
        """What lies there already of the dataset of `recipe`, whose summary belongs at `path`.

        Anything else that lies where it would be written is refused: it is somebody's work.
        """
        fresh = cls(command=command, recipe=recipe)
        if overwrite:
            cls._remove(path, command, but=targets)
            return fresh
        if not path.exists():
            for target in targets:
                if target.exists():
                    raise CriticError(
                        f"{target}: is there already, and no {path.name} beside it tells of "
                        f"{command}; choose another --out or give --overwrite"
                    )
            return fresh
        found = cls._read(path, command)
        changed = [key for key, value in recipe.items() if found.recipe.get(key) != value]
        if changed:
            raise CriticError(
                f"{path}: tells of a dataset made with {_difference(found.recipe, recipe, changed)}"
                "; choose another --out or give --overwrite"
            )
        kept = {
            name: size
            for name, size in found.files.items()
            if (path.parent / name).is_file() and (path.parent / name).stat().st_size == size
        }
        return replace(found, files=kept)

    def with_part(self, part: str, counts: Counts, file: Path, folder: Path) -> Self:
        """The same with one more part, written to `file`."""
        name = file.relative_to(folder).as_posix()
        files = {**self.files, name: file.stat().st_size}
        return replace(self, counts={**self.counts, part: counts}, files=files)

    def save(self, path: Path) -> None:
        """Write the summary."""
        names = ("command", "recipe", "files", "details")
        content = {name: getattr(self, name) for name in names}
        counts = {part: counts.to_json() for part, counts in self.counts.items()}
        write_json(path, {"format_version": FORMAT_VERSION, **content, "counts": counts})

    def describe(self) -> list[list[Any]]:
        """Rows of a table with a column for every part."""
        parts = [counts.describe() for counts in self.counts.values()]
        names = dict.fromkeys(name for part in parts for name in part)
        return [[name, *(part.get(name, 0) for part in parts)] for name in names]

    @classmethod
    def _remove(cls, path: Path, command: str, but: Collection[Path]) -> None:
        """Delete what an earlier run made and this one will not replace, such as a split less."""
        with contextlib.suppress(CriticError, FileNotFoundError):
            for name in cls._read(path, command).files:
                if path.parent / name not in but:
                    (path.parent / name).unlink(missing_ok=True)

    @classmethod
    def _read(cls, path: Path, command: str) -> Self:
        try:
            content = read_json(path)
            if (content.pop("format_version"), content["command"]) == (FORMAT_VERSION, command):
                counts = {part: Counts.from_json(c) for part, c in content["counts"].items()}
                return cls(**{**content, "counts": counts})
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise CriticError(
            f"{path}: not a summary of {command}; choose another --out or give --overwrite"
        )


def refuse_own_source(targets: Collection[Path], sources: Collection[str]) -> None:
    """No file is written over one that it is made from; `sources` are absolute paths."""
    for target in targets:
        if str(target.absolute()) in sources:
            raise CriticError(f"{target}: is one of the files read; choose another --out")


def describe_file(path: Path) -> list[int]:
    """Size and time of change, by which a file is taken to be the same, as the index does."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], changed: list[str]) -> str:
    key = changed[0]
    if isinstance(wanted[key], dict):
        return f"other {key}"
    return f"{key} {found.get(key)!r}, not {wanted[key]!r}"
