"""Turns validation errors of a configuration into one clear line per problem."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configs.keys import describe_unknown
from configs.source import ConfigSource, Override

_MAX_SHOWN = 60
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "a section of keys",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list in [brackets]",
    "string_too_short": "some text",
    "string_type": "text (in quotes)",
    "tuple_type": "a list in [brackets]",
}


def describe(
    error: ValidationError, raw: Any, source: ConfigSource, overrides: Sequence[Override]
) -> list[str]:
    """One line for each wrong key of `raw`, in the order of the sections."""
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        # Each member of a union reports an error: together they are one problem of their key.
        by_key.setdefault(_to_key(detail, raw), []).append(detail)
    merged = _merge_items(by_key)
    return [locate(key, _problem_of(key, details), source, overrides) for key, details in merged]


def find_bools_read_as_numbers(raw: Any, config: Any) -> Iterator[tuple[str, ...]]:
    """Keys whose value is true or false but was read as a number, which pydantic allows."""
    for name, value in raw.items():
        read = config.get(str(name)) if isinstance(config, dict) else getattr(config, name)
        if isinstance(value, dict):
            yield from ((name, *key) for key in find_bools_read_as_numbers(value, read))
        elif isinstance(value, bool) and not isinstance(read, bool):
            yield (name,)


def locate(
    key: Sequence[str | int], problem: str, source: ConfigSource, overrides: Sequence[Override]
) -> str:
    """Prefix `problem` with the place that set `key`: a line of the file or an override."""
    for override in reversed(overrides):
        if tuple(key[: len(override.key)]) == override.key:
            below = _dotted(key[len(override.key) :])
            return f"{override}: {below}{': ' if below else ''}{problem}"
    within = [str(override) for override in overrides if override.key[: len(key)] == tuple(key)]
    blame = f" (with {' '.join(within)})" if within else ""
    shown = f"{_dotted(key)}: " if key else ""
    return f"{source.place_of(key)}: {shown}{problem}{blame}"


def show(value: Any) -> str:
    """`value` as YAML, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _to_key(detail: ErrorDetails, raw: Any) -> tuple[str | int, ...]:
    """The key of an error in `raw`; pydantic adds the members of a union to its path."""
    key: list[str | int] = []
    for part in detail["loc"]:
        if isinstance(raw, dict) and (part in raw or detail["type"] in _MISSING):
            key.append(str(part))
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            key.append(part)
            raw = raw[part]
    return tuple(key)


def _merge_items(
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]],
) -> list[tuple[tuple[str | int, ...], list[ErrorDetails]]]:
    """Merge errors of items into that of their list: `layers` may be all, or numbers."""
    lists = {key for key in by_key if any(other[:-1] == key for other in by_key if other)}
    merged: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for key, details in by_key.items():
        is_item = bool(key) and isinstance(key[-1], int) and key[:-1] in lists
        merged.setdefault(key[:-1] if is_item else key, []).extend(details)
    return list(merged.items())


def _problem_of(key: Sequence[str | int], details: Sequence[ErrorDetails]) -> str:
    first = details[0]
    if first["type"] in ("unexpected_keyword_argument", "invalid_key"):
        return describe_unknown(tuple(str(part) for part in key))
    if first["type"] in _MISSING and isinstance(first["loc"][-1], int):
        wanted = 1 + max(int(detail["loc"][-1]) for detail in details)
        return f"got {show(first['input'])}, which has too few items; write {wanted}"
    if first["type"] == "too_long":
        return f"got {show(first['input'])}, expected at most {first['ctx']['max_length']} items"
    if first["type"] in _MISSING:
        return "missing, and it has no default"
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    # Complaints about the whole first: "expected 'all' or each item a whole number".
    ordered = sorted(details, key=lambda detail: _is_about_item(detail, len(details)))
    expected = dict.fromkeys(_expected(detail, len(details)) for detail in ordered)
    return f"got {show(ordered[0]['input'])}, expected {' or '.join(expected)}"


def _is_about_item(detail: ErrorDetails, num_details: int) -> bool:
    return num_details > 1 and isinstance(detail["loc"][-1], int)


def _expected(detail: ErrorDetails, num_details: int) -> str:
    message = detail["msg"].removeprefix("Input should be ")
    if "than" in detail["type"]:  # greater_than_equal and its kin
        message = f"a number {message}"
    expected = _EXPECTED.get(detail["type"], message)
    return f"each item {expected}" if _is_about_item(detail, num_details) else expected


def _dotted(key: Sequence[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_named(part)}" for part in key)
    return text.removeprefix(".")


def _named(part: str) -> str:
    """A name from a file on one line, whatever characters it has."""
    return part if part.isprintable() else repr(part)
