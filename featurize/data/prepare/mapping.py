"""The mapping from the columns of another dataset to the fields of a sample."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from featurize.data.authors import read_author
from featurize.data.conventions import PROMPT_FIELDS
from featurize.data.fields import (
    describe,
    is_blank,
    optional_id,
    optional_scalar,
    scalar_to_text,
)
from featurize.data.prepare.paths import MISSING, ColumnPath
from featurize.data.prepare.prepared import TEXT_METADATA, Row
from featurize.data.verdicts import refuse_unread
from featurize.errors import CriticError, RowFault, shorten

PLAIN = ("instruction", "input", "output", "is_correct", "problem_id", "task_id")
_SIDES = ("chosen", "rejected")
_CHATS = tuple(name for name in PROMPT_FIELDS if name not in (*PLAIN, "prompt"))
CONVENTIONS = ("prompt", *_SIDES, "completion", "label", *_CHATS)
METADATA = "metadata."
_REQUIRED = {
    "instruction", "output", "prompt", "chosen", "rejected", "completion", "conversations",
    "messages",
}  # fmt: skip
_LABELS = ("is_correct", "label")
_WHOLE = re.compile(r"\A(-?\d+)\.0+\Z")  # 1.0, as pandas writes 1 in a column with gaps


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
        """Convert a value to true or false; null, NaN and blank texts stay unknown.

        Raises:
            RowFault: the value is not a label, is in neither list, or differs from one of them in
                case or outer spaces only.
        """
        if value is None or (isinstance(value, bool) and not self.correct):
            return value
        if not self.correct:
            raise RowFault(
                f"the label is {describe(value)}; say which values mean correct, "
                "e.g. --correct-values passed,AC"
            )
        text = _label_text(value)
        if text is None:
            return None
        known = self._known
        if isinstance(value, bool):  # true is also True
            known = {name.lower(): label for name, label in known.items()}
        label = known.get(_WHOLE.sub(r"\1", text))
        if label is not None:
            return label
        for near in sorted(self.correct | self.incorrect):
            if near.casefold() == text.strip().casefold():
                raise RowFault(
                    f"the label is {shorten(value)}, which differs from {near!r} in case or spaces "
                    "only; add it to --correct-values or --incorrect-values"
                )
        if self.incorrect:
            raise RowFault(
                f"the label is {shorten(value)}, which is neither among --correct-values nor among "
                "--incorrect-values; add it to one of them"
            )
        return False

    @cached_property
    def _known(self) -> dict[str, bool]:
        """The label of every value; 1.0 is 1."""
        lists = ((False, self.incorrect), (True, self.correct))
        return {_WHOLE.sub(r"\1", value): label for label, values in lists for value in values}


def _label_text(value: object) -> str | None:
    """Write a label as JSON does, without quotes; None for null, NaN and blank texts.

    Raises:
        RowFault: it is a list or an object.
    """
    if isinstance(value, (list, dict)):
        raise RowFault(
            f"the label is {describe(value)}; it must be a string, a number, a boolean or null"
        )
    text = scalar_to_text(value)
    return None if text is None or is_blank(text) else text


@dataclass(kw_only=True)
class UsedColumns:
    """The parts of a map that rows used; a part that no row uses is a mistake."""

    paths: set[str] = field(default_factory=set)
    labels: Counter[tuple[Any, str]] = field(default_factory=Counter)  # (label, value) -> rows
    num_empty: int = 0  # rows whose list has no items
    num_normalised: int = 0  # outputs rewritten in one style
    num_not_python: int = 0  # outputs left because they cannot be parsed
    num_copies: int = 0  # rewritten copies of outputs
    num_not_rewritten: int = 0  # outputs without any

    @property
    def has_correct(self) -> bool:
        """Whether any label was correct."""
        return any(label is True for label, _ in self.labels)

    def describe(self, label: bool | None) -> str:
        """List the values taken for a label, the most frequent first: `AC 12, passed 3`."""
        values = [(value, n) for (found, value), n in self.labels.most_common() if found is label]
        shown = ", ".join(f"{shorten(value, 60)} {number:,}" for value, number in values[:10])
        return shown + (f" and {len(values) - 10} other values" if len(values) > 10 else "")


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """The fields of a sample and the paths of the columns that they are read from."""

    paths: Mapping[str, ColumnPath]
    labels: LabelValues = field(default_factory=LabelValues)

    @classmethod
    def parse(cls, options: Sequence[str], labels: LabelValues | None = None) -> "ColumnMap":
        """Read options such as `output=code`, `metadata.language=info.lang`, `output=runs[*].code`.

        Raises:
            CriticError: an option is not of this form, or two contradict.
        """
        labels = labels or LabelValues()
        paths: dict[str, ColumnPath] = {}
        for option in options:
            name, equals, text = (part.strip() for part in option.partition("="))
            if not (equals and text):
                raise CriticError(f"--map {option!r} names no column; write e.g. output=code")
            _check_field(name)
            path = ColumnPath.parse(text)
            if path.comparison:
                _check_comparison(name, option, labels)
            if paths.setdefault(name, path) != path:
                raise CriticError(
                    f"--map {name!r} is given twice, as {paths[name].text!r} and {text!r}; drop one"
                )
        return cls(paths=paths, labels=labels)

    @cached_property
    def columns(self) -> set[str]:
        """The columns that paths may start in."""
        return {name for path in self.paths.values() for name in (path.root, path.column)}

    @cached_property
    def metadata(self) -> list[str]:
        """Names of all metadata that a mapped row may have."""
        mapped = [name.removeprefix(METADATA) for name in self.paths if name.startswith(METADATA)]
        return list(dict.fromkeys([*TEXT_METADATA, "author", *mapped]))

    @cached_property
    def own_fields(self) -> list[str]:
        """The fields that are taken from a column of their own name."""
        # A column that is mapped elsewhere is not also taken under its own name, and neither is
        # one that would contradict a mapped one.
        hidden = {path.column for path in self.paths.values()}
        if self.has_label:
            hidden.update(_LABELS)
        if any(name in self.paths for name in (*_SIDES, "completion")):
            hidden.add("output")
        return [name for name in (*PLAIN, *CONVENTIONS) if name not in hidden - self.paths.keys()]

    @cached_property
    def has_label(self) -> bool:
        """Whether a label is mapped."""
        return any(name in self.paths for name in _LABELS)

    def apply(self, row: Row, used: UsedColumns) -> list[Row]:
        """Rename the columns of a row; fields that already have their name need no mapping.

        A path with [*] makes a row of every item of its list.

        Raises:
            RowFault: a column is missing, or a value cannot be a label or metadata.
        """
        found: dict[str, Any] = {}
        for name, path in self.paths.items():
            value = path.find(row)
            if value is not MISSING:
                used.paths.add(path.text)
                found[name] = value
            elif name in _REQUIRED:
                raise _missing(name, path, row)
        lists = [name for name in found if self.paths[name].item_parts is not None]
        if not lists:
            return [self._to_row(row, found, used)]
        count = self._count_items(found, lists)
        used.num_empty += not count
        return [self._to_row(row, self._item(row, found, lists, n), used) for n in range(count)]

    def _count_items(self, found: Mapping[str, Any], lists: Sequence[str]) -> int:
        first = lists[0]
        for name in lists[1:]:
            if len(found[name]) != len(found[first]):
                raise RowFault(
                    f"{self.paths[first].list_name!r} has {len(found[first])} items and "
                    f"{self.paths[name].list_name!r} {len(found[name])}; lists that become rows "
                    "together must be of one length"
                )
        return len(found[first])

    def _item(self, row: Row, found: Mapping[str, Any], lists: Sequence[str], n: int) -> Row:
        """Return the fields of item `n`; ids that items share are numbered."""
        fields = dict(found)
        for name in lists:
            path, item = self.paths[name], found[name][n]
            fields[name] = path.find_in(item)
            if fields[name] is MISSING and name in _REQUIRED:
                raise _missing(name, path, row, f" in item {n}")
            if not self.has_label and isinstance(item, dict):
                columns = {f"{path.list_name}[*].{key}": value for key, value in item.items()}
                others = {key: columns[key] for key in columns if key not in self.columns}
                refuse_unread(others, None)
        if "task_id" not in lists:
            own = found.get("task_id", row.get("task_id") if "task_id" in self.own_fields else None)
            task_id = optional_id({"task_id": own}, "task_id")
            if task_id is not None:
                fields["task_id"] = f"{task_id}-{n}"
        return {name: value for name, value in fields.items() if value is not MISSING}

    def _to_row(self, row: Row, found: Mapping[str, object], used: UsedColumns) -> Row:
        mapped = {name: row[name] for name in self.own_fields if name in row}
        own = row.get("metadata")
        kept = own if isinstance(own, dict) else {}
        metadata = {name: kept[name] for name in self.metadata if name in kept}
        for name, value in found.items():
            target = metadata if name.startswith(METADATA) else mapped
            target[name.removeprefix(METADATA)] = value
        for name in _LABELS:
            if name in mapped:
                value = mapped[name]
                mapped[name], shown = self._to_label(name, value)
                used.labels[mapped[name], shown] += 1
        if not self.has_label and not any(side in mapped for side in _SIDES):
            others = {n: value for n, value in row.items() if n not in self.columns | mapped.keys()}
            refuse_unread(others, mapped.get("is_correct", mapped.get("label")))
        author = read_author({**kept, **metadata})
        metadata.pop("author", None)  # it may be a list
        texts = {name: optional_scalar(metadata, name, "metadata") for name in metadata}
        if author is not None:
            texts["author"] = author
        return {**mapped, "metadata": texts}

    def _to_label(self, name: str, value: object) -> tuple[object, str]:
        """Return the label and what to call the value in the summary."""
        path = self.paths.get(name)
        if path and path.comparison:
            label = path.comparison.apply(value, path.column)
            shown = path.text if label else f"not {path.text}"
            return label, str(value) if label is None else shown
        return self.labels.to_label(value), str(value)

    def check(self, used: UsedColumns) -> None:
        """Raise if no row used some part of the map."""
        for name, path in self.paths.items():
            if path.text not in used.paths:
                raise CriticError(
                    f"--map {name}={path.text}: no row has {path.column!r}; correct the path"
                )
        wanted = self.labels.correct
        if wanted and not used.has_correct:
            values = used.describe(False) or "none: there is no label column; --map is_correct=..."
            raise CriticError(
                f"--correct-values {','.join(sorted(wanted))}: no row has one of them; "
                f"the values are {values}"
            )


def to_values(options: Collection[str]) -> frozenset[str]:
    """Read the values of options such as `passed,AC`.

    Raises:
        CriticError: an option has no value.
    """
    values = [[value.strip() for value in option.split(",")] for option in options]
    for option, found in zip(options, values, strict=True):
        if not any(found):
            raise CriticError(f"--correct-values or --incorrect-values {option!r}: names no value")
    return frozenset(value for found in values for value in found if value)


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


def _check_comparison(name: str, option: str, labels: LabelValues) -> None:
    if name not in _LABELS:
        raise CriticError(f"--map {option!r} compares, but {name!r} is no label; name a column")
    if labels.correct:
        raise CriticError(f"--map {option!r} says what is correct; drop --correct-values")


def _missing(name: str, path: ColumnPath, row: Row, where: str = "") -> RowFault:
    return RowFault(
        f"{path.column!r} is missing{where}, which --map {name}={path.text} needs "
        f"(there are {', '.join(map(str, row)) or 'no columns'})"
    )
