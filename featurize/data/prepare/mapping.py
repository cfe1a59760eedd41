"""Says which column of a foreign dataset becomes which field of a sample."""

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurize.data.fields import Row, describe, optional_scalar
from featurize.errors import CriticError, RowFault, shorten

PLAIN = ("instruction", "input", "output", "is_correct", "problem_id", "task_id")
CONVENTIONS = ("prompt", "chosen", "rejected", "completion", "label")
METADATA = "metadata."
KEPT_METADATA = ("source", "language", "difficulty")
_REQUIRED = {"instruction", "output", "prompt", "chosen", "rejected", "completion"}
_LABELS = ("is_correct", "label")
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class LabelValues:
    """Which values of the label column mean correct, compared as text."""

    correct: frozenset[str] = frozenset()  # none: labels are true and false already
    incorrect: frozenset[str] = frozenset()  # none: all others

    def __post_init__(self) -> None:
        both = sorted(self.correct & self.incorrect)
        if both:
            raise CriticError(f"value {both[0]!r} cannot be both correct and incorrect")
        if self.incorrect and not self.correct:
            raise CriticError("--incorrect-values needs --correct-values beside it")

    def to_label(self, value: object) -> object:
        """True or false; null stays unknown."""
        if value is None or (isinstance(value, bool) and not self.correct):
            return value
        if not self.correct:
            raise RowFault(
                f"the label is {describe(value)}; say which values mean correct, "
                "e.g. --correct-values passed,AC"
            )
        text = optional_scalar({"label": value}, "label", "label")
        if text in self.correct:
            return True
        if self.incorrect and text not in self.incorrect:
            raise RowFault(
                f"the label is {shorten(value)}, which is neither among --correct-values nor among "
                "--incorrect-values; add it to one of them"
            )
        return None if text is None else False


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """The fields of a sample and the dotted paths of the columns that they are read from."""

    paths: Mapping[str, str]
    labels: LabelValues = field(default_factory=LabelValues)

    @classmethod
    def parse(cls, options: Sequence[str], labels: LabelValues | None = None) -> "ColumnMap":
        """Read options such as `output=code` and `metadata.language=info.lang`."""
        paths: dict[str, str] = {}
        for option in options:
            name, equals, path = (part.strip() for part in option.partition("="))
            if not (equals and path):
                raise CriticError(f"--map {option!r} names no column; write e.g. output=code")
            _check_target(name)
            if paths.setdefault(name, path) != path:
                raise CriticError(
                    f"--map {name!r} is given twice, as {paths[name]!r} and {path!r}; drop one"
                )
        return cls(paths=paths, labels=labels or LabelValues())

    @property
    def columns(self) -> set[str]:
        """The columns that paths start in."""
        return {path.partition(".")[0] for path in self.paths.values()} | set(self.paths.values())

    @property
    def metadata(self) -> list[str]:
        """Names of all metadata that a mapped row may have."""
        mapped = [name.removeprefix(METADATA) for name in self.paths if name.startswith(METADATA)]
        return list(dict.fromkeys([*KEPT_METADATA, *mapped]))

    def apply(self, row: Row, used: "UsedColumns") -> dict[str, Any]:
        """The row as samples have it; what is called as in samples needs no mapping.

        Raises:
            RowFault: a column is missing, or a value is of no use.
        """
        # A column that is mapped elsewhere is not also taken under its own name.
        taken = set(self.paths.values())
        mapped = {
            name: row[name] for name in (*PLAIN, *CONVENTIONS) if name in row and name not in taken
        }
        own = row.get("metadata")
        metadata = (
            {name: own[name] for name in self.metadata if name in own}
            if isinstance(own, dict)
            else {}
        )
        for name, path in self.paths.items():
            value = find(row, path)
            if value is _MISSING:
                if name in _REQUIRED:
                    raise RowFault(
                        f"{path!r} is missing, which --map {name}={path} needs "
                        f"(there are {', '.join(map(str, row)) or 'no columns'})"
                    )
                continue
            used.paths.add(path)
            if name.startswith(METADATA):
                metadata[name.removeprefix(METADATA)] = value
            else:
                mapped[name] = value
        mapped["metadata"] = {key: optional_scalar(metadata, key, "metadata") for key in metadata}
        for name in _LABELS:
            if name in mapped:
                value = mapped[name]
                mapped[name] = self.labels.to_label(value)
                used.labels[mapped[name], str(value)] += 1
        return mapped


@dataclass(kw_only=True)
class UsedColumns:
    """What of a map was met in the rows: what never was is a mistake in the map."""

    paths: set[str] = field(default_factory=set)
    labels: Counter[tuple[Any, str]] = field(default_factory=Counter)  # (label, value) -> rows

    def check(self, columns: ColumnMap) -> None:
        """Refuse a map of which a part was never used."""
        for name, path in columns.paths.items():
            if path not in self.paths:
                raise CriticError(f"--map {name}={path}: no row has {path!r}; correct the path")
        wanted = columns.labels.correct
        if wanted and not any(label is True for label, _ in self.labels):
            values = self.describe(False) or "none: there is no label column; --map is_correct=..."
            raise CriticError(
                f"--correct-values {','.join(sorted(wanted))}: no row has one of them; "
                f"the values are {values}"
            )

    def describe(self, label: bool | None) -> str:
        """The values taken for a label, the most frequent first: `AC 12, passed 3`."""
        values = [(value, n) for (found, value), n in self.labels.most_common() if found is label]
        shown = ", ".join(f"{shorten(value, 30)} {number:,}" for value, number in values[:10])
        return shown + (f" and {len(values) - 10} other values" if len(values) > 10 else "")


def find(row: Row, path: str) -> object:
    """The value at a dotted path, `_MISSING` if there is none; numbers count in lists from 0."""
    if path in row:
        return row[path]
    value: object = row
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif value is None:
            return None
        else:
            return _MISSING
    return value


def to_values(options: Collection[str]) -> frozenset[str]:
    """The values that options such as `passed,AC` list."""
    return frozenset(
        value.strip() for option in options for value in option.split(",") if value.strip()
    )


def _check_target(name: str) -> None:
    if name in (*PLAIN, *CONVENTIONS) or (
        name.startswith(METADATA) and name != METADATA and "." not in name.removeprefix(METADATA)
    ):
        return
    known = (*PLAIN, *(METADATA + kept for kept in KEPT_METADATA), *CONVENTIONS)
    near = difflib.get_close_matches(name, [*known, *KEPT_METADATA], n=1)
    meant = near[0] if near and near[0] in known else METADATA + near[0] if near else None
    remedy = f"did you mean {meant!r}?" if meant else f"the fields are {', '.join(known)}"
    raise CriticError(f"--map {name!r} is no field of a sample; {remedy}")
