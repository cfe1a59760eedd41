"""Loads a configuration: YAML file, overrides of the command line, validation."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from configs.config import Config
from configs.console import expand_home
from configs.errors import describe, find_bools_read_as_numbers, locate, show
from configs.source import ConfigError, ConfigSource, Override, first_line, merge
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
        raise ConfigError("\n".join(problems + describe(error, raw, source, parsed))) from None
    problems += [
        locate(key, f"got {show(_at(raw, key))}, expected a number", source, parsed)
        for key in find_bools_read_as_numbers(raw, config)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """`config` as dicts, lists, strings and numbers, as heads record it: without a password."""
    plain: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    plain["mlflow"]["tracking_uri"] = without_password(plain["mlflow"]["tracking_uri"])
    return plain


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
        line = locate(key if any(key) else (), problem, source, overrides)
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
