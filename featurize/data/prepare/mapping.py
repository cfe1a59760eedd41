"""The mapping from the columns of another dataset to the fields of a sample."""

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurize.data.fields import describe, optional_scalar
from featurize.data.prepare.prepared import TEXT_METADATA, Row
from featurize.errors import CriticError, RowFault, shorten

PLAIN = ("instruction", "input", "output", "is_correct", "problem_id", "task_id")
CONVENTIONS = ("prompt", "chosen", "rejected", "completion", "label")
METADATA = "metadata."
_REQUIRED = {"instruction", "output", "prompt", "chosen", "rejected", "completion"}
_LABELS = ("is_correct", "label")
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class LabelValues:
    """The values of the label column that mean correct, compared as text."""

    correct: frozenset[str] = frozenset()  # none: the labels are true and false
    incorrect: frozenset[str] = frozenset()  # none: all other values

    def __post_init__(self) -> None:
        both = sorted(self.correct & self.incorrect)
        if both:
            raise CriticError(f"value {both[0]!r} cannot be both correct and incorrect")
        if self.incorrect and not self.correct:
            raise CriticError("--incorrect-values needs --correct-values beside it")

    def to_label(self, value: object) -> object:
        """Convert a value to true or false; null stays unknown."""
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


@dataclass(kw_only=True)
class UsedColumns:
    """The parts of a map that rows used; a part that no row uses is a mistake."""

    paths: set[str] = field(default_factory=set)
    labels: Counter[tuple[Any, str]] = field(default_factory=Counter)  # (label, value) -> rows

    def describe(self, label: bool | None) -> str:
        """List the values taken for a label, the most frequent first: `AC 12, passed 3`."""
        values = [(value, n) for (found, value), n in self.labels.most_common() if found is label]
        shown = ", ".join(f"{shorten(value, 30)} {number:,}" for value, number in values[:10])
        return shown + (f" and {len(values) - 10} other values" if len(values) > 10 else "")


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
            _check_field(name)
            if paths.setdefault(name, path) != path:
                raise CriticError(
                    f"--map {name!r} is given twice, as {paths[name]!r} and {path!r}; drop one"
                )
        return cls(paths=paths, labels=labels or LabelValues())

    @property
    def columns(self) -> set[str]:
        """The columns that paths may start in."""
        return {path.partition(".")[0] for path in self.paths.values()} | set(self.paths.values())

    @property
    def metadata(self) -> list[str]:
        """Names of all metadata that a mapped row may have."""
        mapped = [name.removeprefix(METADATA) for name in self.paths if name.startswith(METADATA)]
        return list(dict.fromkeys([*TEXT_METADATA, *mapped]))

    def apply(self, row: Row, used: UsedColumns) -> Row:
        """Rename the columns of a row; fields that already have their name need no mapping.

        Raises:
            RowFault: a column is missing, or a value cannot be a label or metadata.
        """
        # A column that is mapped elsewhere is not also taken under its own name.
        names = [n for n in (*PLAIN, *CONVENTIONS) if n not in self.paths.values()]
        mapped = {name: row[name] for name in names if name in row}
        own = row.get("metadata")
        kept = own if isinstance(own, dict) else {}
        metadata = {name: kept[name] for name in self.metadata if name in kept}
        for name, path in self.paths.items():
            value = _find(row, path)
            if value is not _MISSING:
                used.paths.add(path)
                target = metadata if name.startswith(METADATA) else mapped
                target[name.removeprefix(METADATA)] = value
            elif name in _REQUIRED:
                raise RowFault(
                    f"{path!r} is missing, which --map {name}={path} needs "
                    f"(there are {', '.join(map(str, row)) or 'no columns'})"
                )
        for name in _LABELS:
            if name in mapped:
                value = mapped[name]
                mapped[name] = self.labels.to_label(value)
                used.labels[mapped[name], str(value)] += 1
        texts = {name: optional_scalar(metadata, name, "metadata") for name in metadata}
        return {**mapped, "metadata": texts}

    def check(self, used: UsedColumns) -> None:
        """Raise if no row used some part of the map."""
        for name, path in self.paths.items():
            if path not in used.paths:
                raise CriticError(f"--map {name}={path}: no row has {path!r}; correct the path")
        wanted = self.labels.correct
        if wanted and not any(label is True for label, _ in used.labels):
            values = used.describe(False) or "none: there is no label column; --map is_correct=..."
            raise CriticError(
                f"--correct-values {','.join(sorted(wanted))}: no row has one of them; "
                f"the values are {values}"
            )


def to_values(options: Collection[str]) -> frozenset[str]:
    """Read the values of options such as `passed,AC`."""
    values = (value.strip() for option in options for value in option.split(","))
    return frozenset(filter(None, values))


def _check_field(name: str) -> None:
    if name in (*PLAIN, *CONVENTIONS):
        return
    if name.startswith(METADATA) and name != METADATA and name.count(".") == 1:
        return
    known = (*PLAIN, *(METADATA + kept for kept in TEXT_METADATA), *CONVENTIONS)
    near = difflib.get_close_matches(name, [*known, *TEXT_METADATA], n=1)
    remedy = f"the fields are {', '.join(known)}"
    if near:
        remedy = f"did you mean {near[0] if near[0] in known else METADATA + near[0]!r}?"
    raise CriticError(f"--map {name!r} is no field of a sample; {remedy}")


def _find(row: Row, path: str) -> object:
    """Get the value at a dotted path, or `_MISSING`; numbers are positions in lists, from 0."""
    if path in row:
        return row[path]
    value: object = row
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None if value is None else _MISSING
    return value
