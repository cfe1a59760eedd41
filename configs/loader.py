"""Loads a configuration: file, overrides, validation, and what is wrong where."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from configs.config import Config
from configs.console import expand_home
from configs.source import (
    ConfigError,
    ConfigSource,
    Override,
    describe_unknown,
    first_line,
    merge,
)
from featurize.errors import one_line
from featurize.settings import PromptSettings
from headtrain.tracking.database import without_password

# Below every file, so that a short one may leave storage out and still refer to it.
_BASE = {
    "storage": {
        "root": "storage",
        "models_dir": "${storage.root}/models",
        "datasets_dir": "${storage.root}/datasets",
        "checkpoints_dir": "${storage.root}/checkpoints",
        "features_dir": "${storage.root}/features",
    },
}
_PATHS = (
    *(("storage", name) for name in _BASE["storage"]),
    *(("models.policy", name) for name in ("path", "tokenizer_path")),
    *(("dataset", name) for name in ("train", "validation", "test")),
    ("prompt", "template"),
    ("checkpoint", "save_dir"),
    ("data_sampling.pairwise", "exclude_problems"),
)
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
_RESOLVER_NOISE = re.compile(r"^\w+ raised while resolving interpolation: ")


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Load the YAML file at `path` with `section.key=value` overrides on top.

    Without a path it is the packaged critic_pairwise.yaml. Whatever is wrong is a ConfigError
    with one line a problem.
    """
    return _load(ConfigSource.read(path), overrides)


def load_recorded(record: Mapping[str, Any], name: str, overrides: Sequence[str] = ()) -> Config:
    """Load what `to_dict` returned, with overrides on top; messages call it `name`.

    Folders below storage.root move with it when it is overridden.
    """
    tree = dict(record)
    storage = tree.get("storage")
    if isinstance(storage, dict):
        inside = f"{storage.get('root')}/"
        tree["storage"] = {
            key: f"${{storage.root}}/{folder.removeprefix(inside)}"
            if isinstance(folder, str) and folder.startswith(inside)
            else folder
            for key, folder in storage.items()
        }
    if isinstance(tree.get("prompt"), dict):
        tree["prompt"] = {key: _without_references(text) for key, text in tree["prompt"].items()}
    return _load(ConfigSource(name=name, text=json.dumps(tree)), overrides)


def _without_references(text: Any) -> Any:
    """NOTE: a recorded text is resolved; a "${" in it, as templates may have, is text."""
    return text.replace("${", "\\${") if isinstance(text, str) else text


def _load(source: ConfigSource, overrides: Sequence[str]) -> Config:
    """Merge, resolve and validate a source."""
    tree = source.parse()
    parsed, problems = _parse_overrides(overrides)
    raw = _resolve(tree, parsed, source)
    try:
        config = TypeAdapter(Config).validate_python(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(problems + _describe(error, raw, source, parsed))) from None
    problems += [
        _locate(key, f"got {_show(_at(raw, key))}, expected a number", source, parsed)
        for key in _find_bools_read_as_numbers(raw, config)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """`config` as dicts, lists, strings and numbers, as heads record it: without a password."""
    plain: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    plain["mlflow"]["tracking_uri"] = without_password(plain["mlflow"]["tracking_uri"])
    return plain


def with_template_text(prompt: PromptSettings) -> PromptSettings:
    """Put the text of a template in place of its file, so that heads and stores record the text.

    Raises:
        ConfigError: the file cannot be read.
    """
    template = prompt.template
    if template is None or "{" in template or "\n" in template:
        return prompt
    try:
        text = Path(template).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"prompt.template: {template!r} cannot be read ({one_line(error)}); name the file of a"
            " Jinja chat template"
        ) from error
    if "{" not in text:
        raise ConfigError(
            f"prompt.template: {template!r} has no {{{{ }}}} or {{% %}}, so every prompt would be"
            " the same; name the file of a Jinja chat template"
        )
    return replace(prompt, template=text)


def _parse_overrides(texts: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Valid overrides, and a line for each invalid one."""
    parsed, problems = [], []
    for text in texts:
        try:
            parsed.append(Override.parse(text))
        except ConfigError as error:
            problems.append(str(error))
    return parsed, problems


def _resolve(tree: dict[Any, Any], overrides: Sequence[Override], source: ConfigSource) -> Any:
    """Apply the overrides and resolve the interpolations."""
    try:
        merged = merge(_BASE, tree)
        for override in overrides:
            merged = merge(merged, override.to_tree())
        whole = OmegaConf.create(merged)
        plain = OmegaConf.to_container(whole, resolve=True, throw_on_missing=True)
        return _expand_home(_with_save_dir(plain))
    except OmegaConfBaseException as error:
        key = tuple(str(error.full_key or "").split("."))
        problem = _RESOLVER_NOISE.sub("", first_line(error)).strip('"')
        if isinstance(error, MissingMandatoryValue):
            problem = "missing, and it has no default"
        line = _locate(key if any(key) else (), problem, source, overrides)
        raise ConfigError(line) from None


def _with_save_dir(raw: Any) -> Any:
    """Set the default of checkpoint.save_dir, which depends on other sections.

    NOTE not among the interpolations of _BASE: a missing experiment.name would be reported as an
    interpolation the user has not written, and hide every other problem.
    """
    section = raw.setdefault("checkpoint", {})
    experiment, storage = raw.get("experiment"), raw["storage"]
    if isinstance(section, dict) and isinstance(storage, dict):
        name = experiment.get("name") if isinstance(experiment, dict) else None
        section.setdefault("save_dir", f"{storage.get('checkpoints_dir')}/critic/{name}")
    return raw


def _expand_home(raw: Any) -> Any:
    """Replace a leading `~` in every setting that is a path."""
    for section, name in _PATHS:
        folder = raw
        for part in section.split("."):
            folder = folder.get(part) if isinstance(folder, dict) else None
        if isinstance(folder, dict) and name in folder:
            folder[name] = expand_home(folder[name])
    return raw


def _at(raw: Any, key: Sequence[str]) -> Any:
    for part in key:
        raw = raw[part]
    return raw


def _describe(
    error: ValidationError, raw: Any, source: ConfigSource, overrides: Sequence[Override]
) -> list[str]:
    """One line for each wrong key of `raw`, in the order of the sections."""
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        # Each member of a union reports an error: together they are one problem of their key.
        by_key.setdefault(_to_key(detail, raw), []).append(detail)
    merged = _merge_items(by_key)
    return [_locate(key, _problem_of(key, details), source, overrides) for key, details in merged]


def _find_bools_read_as_numbers(raw: Any, config: Any) -> Iterator[tuple[str, ...]]:
    """Keys whose value is true or false but was read as a number, which pydantic allows."""
    for name, value in raw.items():
        read = config.get(str(name)) if isinstance(config, dict) else getattr(config, name)
        if isinstance(value, dict):
            yield from ((name, *key) for key in _find_bools_read_as_numbers(value, read))
        elif isinstance(value, bool) and not isinstance(read, bool):
            yield (name,)


def _locate(
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


def _show(value: Any) -> str:
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
        return f"got {_show(first['input'])}, which has too few items; write {wanted}"
    if first["type"] == "too_long":
        return f"got {_show(first['input'])}, expected at most {first['ctx']['max_length']} items"
    if first["type"] in _MISSING:
        return "missing, and it has no default"
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    # Complaints about the whole first: "expected 'all' or each item a whole number".
    ordered = sorted(details, key=lambda detail: _is_about_item(detail, len(details)))
    expected = dict.fromkeys(_expected(detail, len(details)) for detail in ordered)
    return f"got {_show(ordered[0]['input'])}, expected {' or '.join(expected)}"


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
