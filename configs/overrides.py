"""Settings given on the command line: `section.key=value`, the value read as YAML."""

import re
from dataclasses import dataclass
from typing import Any, Self

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.keys import KeyPath, describe_unknown, known_keys
from configs.source import ConfigError, first_line

_FORM = re.compile(r"(?P<key>[^\s=.]+(?:\.[^\s=.]+)*)=(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Override:
    """One `section.key=value`."""

    text: str
    """As it was given, on one line."""

    key: KeyPath
    """The key it sets, which is in the tree."""

    value: Any
    """What it is set to, interpolations unresolved."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The override written as `text`."""
        form = _FORM.fullmatch(text)
        text = text if text.isprintable() else repr(text)
        if form is None:
            raise ConfigError(f"--set {text}: not of the form section.key=value")
        key = tuple(form["key"].split("."))
        if key not in known_keys():
            raise ConfigError(f"--set {text}: {describe_unknown(key)}")
        try:
            # OmegaConf's own reading of the value, the same as it has for a file: 1e-3 is a number.
            pair = OmegaConf.from_dotlist([f"value={form['value']}"])
            value = OmegaConf.to_container(pair, resolve=False)
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            problem = getattr(error, "problem", None) or first_line(error)
            raise ConfigError(f"--set {text}: the value is not YAML: {problem}; quote it") from None
        assert isinstance(value, dict)
        return cls(text=text, key=key, value=value["value"])

    def __str__(self) -> str:
        return f"--set {self.text}"

    def to_tree(self) -> dict[str, Any]:
        """A tree that holds nothing but this key."""
        tree = self.value
        for name in reversed(self.key):
            tree = {name: tree}
        assert isinstance(tree, dict)
        return tree


def merge(below: Any, above: Any) -> Any:
    """`above`, with what only `below` has where both are sections.

    NOTE not OmegaConf.merge, which fails with a TypeError where one is a list, the other a section.
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {
        **below,
        **{name: merge(below.get(name), value) for name, value in above.items()},
    }
