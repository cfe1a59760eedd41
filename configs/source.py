"""Where settings come from: a YAML file, with its lines, and `section.key=value` overrides."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.keys import KeyPath, describe_unknown, known_keys
from featurize.errors import CriticError

PACKAGED = Path(__file__).parent
DEFAULT_NAME = "critic_pairwise.yaml"

_NO_COMMENT = "\ue000"
"""Stands in for `#`, to see whether YAML takes one for the start of a comment."""

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
    """Parse a value as OmegaConf parses a file: 1e-3 is a number. `#` is put back."""
    pair = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    assert isinstance(pair, dict)
    return _put_back(pair["value"])


def _has_comment(text: str, value: Any) -> bool:
    """Whether YAML has dropped a part of a text that it has parsed as `value`."""
    try:
        return bool(value != _parse_value(text.replace("#", _NO_COMMENT)))
    except (yaml.YAMLError, OmegaConfBaseException):
        return True  # without the comment it is no value


def _put_back(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_NO_COMMENT, "#")
    if isinstance(value, list):
        return [_put_back(item) for item in value]
    if isinstance(value, dict):
        return {_put_back(key): _put_back(item) for key, item in value.items()}
    return value


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
