"""Where settings come from: a YAML file with its lines, overrides, and the keys of both."""

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.config import Config
from featurize.errors import CriticError

PACKAGED = Path(__file__).parent
DEFAULT_NAME = "critic_pairwise.yaml"

_NO_COMMENT = "\ue000"
"""Placeholder for `#`, to see whether YAML takes one for the start of a comment."""

KeyPath: TypeAlias = tuple[str, ...]

_FORM = re.compile(r"(?P<key>[^\s=.]+(?:\.[^\s=.]+)*)=(?P<value>.*)", re.DOTALL)


class ConfigError(CriticError):
    """An invalid configuration; each line names one problem and its place."""

    def __init__(self, message: str) -> None:
        """Quoted text is escaped so that it cannot start a new line."""
        super().__init__("\n".join(map(_printable, message.split("\n"))))


@dataclass(frozen=True, kw_only=True)
class ConfigSource:
    """The text of a YAML file and its name in messages."""

    name: str
    """The path as the user gave it."""

    text: str
    """Content of the file."""

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """Read `path`, or the packaged file of that name; None: the production config."""
        found = _find(path)
        name = str(path or Path(PACKAGED.name) / DEFAULT_NAME)
        try:
            return cls(name=name, text=found.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{name}: byte {error.start} is not UTF-8 text; save it so") from None
        except OSError as error:
            raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None

    def parse(self) -> dict[Any, Any]:
        """The tree of the file; interpolations are not resolved."""
        try:
            tree = OmegaConf.create(self.text)
        except yaml.MarkedYAMLError as error:
            raise ConfigError(f"{self._place(error)}: not valid YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.name}: not valid YAML: {first_line(error)}") from None
        except OmegaConfBaseException as error:
            key = str(error.full_key or "")
            place = self.place_of(key.split("."))
            raise ConfigError(f"{place}: {key}: {first_line(error)}") from None
        if not isinstance(tree, DictConfig) or not isinstance(self._root(), yaml.MappingNode):
            raise ConfigError(f"{self.name}: holds no sections; see configs/{DEFAULT_NAME}")
        plain = OmegaConf.to_container(tree, resolve=False)
        assert isinstance(plain, dict)
        return plain

    def place_of(self, key: Sequence[str | int]) -> str:
        """`file:line` of `key`, or of the nearest section above it in the file."""
        node, line = self._root(), None
        for part in key:
            child = _child_of(node, part)
            if child is None:
                break
            marked, node = child
            line = marked.start_mark.line + 1
        return self.name if line is None else f"{self.name}:{line}"

    def _root(self) -> yaml.Node | None:
        # libyaml's reader where PyYAML has it: the same tree, ten times sooner.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        root: yaml.Node | None = yaml.compose(self.text, Loader=loader)
        return root

    def _place(self, error: yaml.MarkedYAMLError) -> str:
        mark = error.problem_mark or error.context_mark
        return self.name if mark is None else f"{self.name}:{mark.line + 1}"


@dataclass(frozen=True, kw_only=True)
class Override:
    """One `section.key=value`."""

    text: str
    """As it was given, on one line."""

    key: KeyPath
    """The key it sets."""

    value: Any
    """Its value; interpolations are not resolved."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an override."""
        form = _FORM.fullmatch(text)
        text = text if text.isprintable() else repr(text)
        if form is None:
            raise ConfigError(f"--set {text}: not of the form section.key=value")
        key = tuple(form["key"].split("."))
        if key not in known_keys():
            raise ConfigError(f"--set {text}: {describe_unknown(key)}")
        try:
            value = _parse_value(form["value"])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            problem = getattr(error, "problem", None) or first_line(error)
            raise ConfigError(f"--set {text}: the value is not YAML: {problem}; quote it") from None
        if _has_comment(form["value"], value):
            raise ConfigError(
                f"--set {text}: YAML reads the text from ' #' on as a comment; quote the value: "
                f"--set '{form['key']}=\"...\"'"
            )
        return cls(text=text, key=key, value=value)

    def __str__(self) -> str:
        return f"--set {self.text}"

    def to_tree(self) -> dict[str, Any]:
        """A tree with this key only."""
        tree = self.value
        for name in reversed(self.key):
            tree = {name: tree}
        assert isinstance(tree, dict)
        return tree


def _parse_value(text: str) -> Any:
    """Parse a value as OmegaConf parses a file: 1e-3 is a number."""
    pair = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    assert isinstance(pair, dict)
    return pair["value"]


def _has_comment(text: str, value: Any) -> bool:
    """Whether YAML has dropped a part of a text that it has parsed as `value`."""
    try:
        whole = repr(_parse_value(text.replace("#", _NO_COMMENT)))
    except (yaml.YAMLError, OmegaConfBaseException):
        return True  # without the comment it is no value
    return whole.replace(repr(_NO_COMMENT)[1:-1], "#") != repr(value)


@functools.cache
def known_keys() -> tuple[KeyPath, ...]:
    """Every key of the tree, including sections."""
    return tuple(
        (*path, field.name) for path, section in sections() for field in dataclasses.fields(section)
    )


def sections(
    settings: type[Any] = Config, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, type[Any]]]:
    """Yield a settings class and every section below it, each with its path."""
    yield path, settings
    for name, hint in typing.get_type_hints(settings).items():
        for kind in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from sections(kind, (*path, name))


def describe_unknown(key: KeyPath) -> str:
    """The message for an unknown key: the nearest key, or the keys of its section."""
    nearest = _nearest_keys(key)
    if nearest:
        return f"unknown key; did you mean {' or '.join(nearest)}?"
    _, siblings = _siblings_of(key)
    return f"unknown key; the keys there are {', '.join(siblings)}" if siblings else "unknown key"


def _nearest_keys(key: KeyPath) -> list[str]:
    section, siblings = _siblings_of(key)
    depth = len(section)
    wanted = ".".join(key)
    # The right name in the wrong place: training.seed is runtime.seed or data_sampling.seed.
    elsewhere = [".".join(known) for known in known_keys() if known[-1] == key[-1]]
    beside = difflib.get_close_matches(key[depth], siblings, n=1)
    if beside and (depth < len(key) - 1 or not elsewhere):
        corrected = (*section, beside[0], *key[depth + 1 :])
        return [".".join(corrected if corrected in known_keys() else corrected[: depth + 1])]
    if elsewhere:
        return difflib.get_close_matches(wanted, elsewhere, n=2, cutoff=0.0)
    sections = {known[:-1] for known in known_keys()}
    names = set(difflib.get_close_matches(key[-1], {known[-1] for known in known_keys()}))
    everywhere = [
        ".".join(known) for known in known_keys() if known not in sections and known[-1] in names
    ]
    return difflib.get_close_matches(wanted, everywhere, n=1, cutoff=0.7)


def _siblings_of(key: KeyPath) -> tuple[KeyPath, list[str]]:
    """The deepest existing section on the path to `key`, and the names in it."""
    depth = len(key) - 1
    while depth and key[:depth] not in known_keys():
        depth -= 1
    section = key[:depth]
    return section, [known[-1] for known in known_keys() if known[:-1] == section]


def merge(below: Any, above: Any) -> Any:
    """Merge two trees; values of `above` win.

    NOTE not OmegaConf.merge, which fails with a TypeError where one is a list, the other a section.
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {
        **below,
        **{name: merge(below.get(name), value) for name, value in above.items()},
    }


def first_line(error: Exception) -> str:
    """The first line of an error message."""
    return str(error).partition("\n")[0]


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def _find(path: Path | None) -> Path:
    if path is None:
        return PACKAGED / DEFAULT_NAME
    if path.exists():
        return path
    # `--config configs/demo.yaml` has to work from any folder, not just from the checkout.
    packaged = PACKAGED / path.name
    if path.parent in (Path(), Path(PACKAGED.name)) and packaged.is_file():
        return packaged
    names = ", ".join(sorted(file.name for file in PACKAGED.glob("*.yaml")))
    raise ConfigError(f"{path}: no such file; the packaged ones are {names}")


def _child_of(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node with the line of `part`, and its value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item, item
    return None
