"""The reference of the settings: every key, with a default and a meaning."""

import dataclasses
from pathlib import Path

from configs.site import main, settings_of, settings_reference
from configs.source import known_keys, sections


def test_every_key_is_in_the_reference() -> None:
    found = {
        ".".join([*path, setting.name])
        for path, section in sections()
        for setting in settings_of(section)
    }
    inner = {key[:-1] for key in known_keys()}
    assert found == {".".join(key) for key in known_keys() if key not in inner}


def test_every_setting_has_a_meaning_and_its_own_default() -> None:
    for path, section in sections():
        fields = {field.name: field for field in dataclasses.fields(section)}
        for setting in settings_of(section):
            assert setting.description, f"{path}.{setting.name}"
            has_default = (
                fields[setting.name].default is not dataclasses.MISSING
                or fields[setting.name].default_factory is not dataclasses.MISSING
            )
            assert bool(setting.default) == has_default, f"{path}.{setting.name}"
            assert "Annotated" not in setting.type


def test_the_page_is_tables_of_three_columns(tmp_path: Path) -> None:
    main([str(tmp_path / "settings.md")])
    page = (tmp_path / "settings.md").read_text("utf-8")
    assert page == settings_reference()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}
