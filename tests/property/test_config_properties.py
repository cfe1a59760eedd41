"""What holds for every override and every configuration."""

import json
import tempfile
from pathlib import Path

import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from configs.loader import ConfigError, load_config, to_dict
from configs.source import known_keys

DEMO = Path("demo.yaml")
SECTIONS = {key[:-1] for key in known_keys()}
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="=."), min_size=1)


def _problems(path: Path, *overrides: str) -> list[str]:
    """The lines of the error; none where the configuration is taken."""
    try:
        load_config(path, overrides)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@st.composite
def _misspelt_keys(draw: st.DrawFn) -> tuple[str, ...]:
    """A key of the tree with one name in it changed, dropped or added; or any names at all."""
    key = list(draw(st.sampled_from(known_keys())))
    position = draw(st.integers(0, len(key) - 1))
    match draw(st.sampled_from(["change", "drop letter", "append", "any"])):
        case "change":
            key[position] = draw(NAMES)
        case "drop letter":
            key[position] = key[position][1:] or "x"
        case "append":
            key.append(draw(NAMES))
        case _:
            key = draw(st.lists(NAMES, min_size=1, max_size=5))
    return tuple(key)


@settings(deadline=None, max_examples=25)
@given(_misspelt_keys(), st.sampled_from(["1", "null", "true", "x", "[]", "{}"]))
def test_any_override_of_a_key_not_in_the_tree_is_refused(key: tuple[str, ...], value: str) -> None:
    assume(key not in known_keys())
    override = f"{'.'.join(key)}={value}"
    (problem,) = _problems(DEMO, override)
    assert problem.startswith(f"--set {override}: ")


@settings(deadline=None, max_examples=25)
@given(st.text())
def test_any_text_as_an_override_is_taken_or_refused_in_one_line(text: str) -> None:
    assert len(_problems(DEMO, text)) <= 1


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(known_keys()), st.text(max_size=20))
def test_any_text_as_a_value_is_taken_or_refused_with_its_key(
    key: tuple[str, ...], value: str
) -> None:
    for line in _problems(DEMO, f"{'.'.join(key)}={value}"):
        assert ".".join(key) in line


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(known_keys()), VALUES)
@example(("project",), {"\x1e": None})
@example(("storage",), {"a\nb": {"c\x85": None}})
@example(("storage", "root"), {"\u2028": 1})
@example(("featurize", "layers"), ["\x1c", {"\r": 0}])
@example(("project", "name"), "${\x1e}")
def test_any_value_in_a_file_is_taken_or_refused_with_the_name_of_the_file(
    key: tuple[str, ...], value: object
) -> None:
    tree = to_dict(load_config(DEMO))
    section = tree
    for name in key[:-1]:
        if section[name] is None:
            section[name] = {}
        section = section[name]
    section[key[-1]] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        problems = _problems(path)
        assert all(line.startswith(str(path)) for line in problems)
        if not problems:
            config = load_config(path)
            path.write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
            assert load_config(path) == config


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(set(known_keys()) - SECTIONS)))
def test_overriding_a_key_with_the_value_it_has_changes_nothing(key: tuple[str, ...]) -> None:
    config = load_config(DEMO)
    value: object = to_dict(config)
    for name in key:
        value = value[name] if isinstance(value, dict) else None
    assume(value is not None)  # setting a key of a null section makes the section
    # JSON is YAML on one line.
    assert load_config(DEMO, [f"{'.'.join(key)}={json.dumps(value)}"]) == config
