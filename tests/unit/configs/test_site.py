"""Pages of the site: the reference of all settings, and figures with a style of their own."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from configs.site import (
    inline_figures,
    main,
    on_page_content,
    settings_of,
    settings_reference,
)
from configs.source import known_keys, sections

DOCS = Path(__file__).parents[3] / "docs"
FIGURES = sorted(path.stem for path in (DOCS / "figures").glob("*.svg"))


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
    assert {re.sub("`.*?`", "", line).count("|") for line in rows} == {4}
    assert not any("\\|" in code for code in re.findall("`(.*?)`", page)), "shown as it is"
    assert not [line for line in rows if "<" in re.sub("`.*?`", "", line)], "taken for a tag"


def image(name: str) -> str:
    return f'<p><img alt="what it shows" src="figures/{name}.svg" /></p>'


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_in_the_page_and_follows_its_scheme(name: str) -> None:
    page = on_page_content(image(name), {"docs_dir": str(DOCS)}, page=None, files=None)
    assert page.startswith("<p><svg")
    assert page.endswith("</svg></p>")
    svg = ElementTree.fromstring(page).find("{http://www.w3.org/2000/svg}svg")
    assert svg is not None
    assert svg.attrib["class"] == f"figure-{name}"
    assert svg.attrib["aria-label"]
    style = svg.findtext("{http://www.w3.org/2000/svg}style") or ""
    assert re.fullmatch(
        rf"\.figure-{name}\{{text\{{.*\}}\}}\n"
        rf"\[data-md-color-scheme=slate\] \.figure-{name}\{{text\{{.*\}}\}}",
        style,
    )
    assert style.count("{") == style.count("}")
    assert "prefers-color-scheme" not in page


def test_other_images_stay_as_they_are() -> None:
    page = '<img alt="" src="elsewhere/pair.svg"><img src="figures/photo.png">'
    assert inline_figures(page, DOCS / "figures") == page


def test_a_figure_without_a_style_for_dark_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain.svg").write_text("<svg><style>\ntext{fill:red}\n</style></svg>")
    with pytest.raises(ValueError, match=r"plain\.svg: no <style> .* dark"):
        inline_figures(image("plain"), tmp_path)


def test_every_figure_of_the_documents_is_one_of_these() -> None:
    used = [
        name
        for page in DOCS.glob("*.md")
        for name in re.findall(r"\]\(figures/([\w-]+)\.svg\)", page.read_text("utf-8"))
    ]
    assert sorted(used) == FIGURES


def test_mkdocs_calls_the_module() -> None:
    settings = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    assert "hooks: [configs/site.py]" in settings


def test_kinds_of_text_are_shown_as_text() -> None:
    page = settings_reference()
    assert "| `exclude_problems` | `tuple[str, ...] | str | None`" in page
    assert not any(name in page for name in ("_Name", "FolderName", "HomePath", "SomePath"))
