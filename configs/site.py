"""Makes pages of the documents: the reference of settings, and figures that take a page's colours.

`make docs` runs `python -m configs.site FILE`, which writes the reference from settings classes.
mkdocs calls `on_page_content` (see mkdocs.yml): a figure in a file of its own can only follow the
scheme of the operating system; as a part of the page it follows the button of the page too.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from configs.source import sections
from featurize.io.files import atomic_path

# The constraints of a type are left out: Annotated[int, Field(ge=2)] is int.
_TEXT = re.compile(r"\b(?:_Name|FolderName|HomePath|SomePath)\b")  # all are str to a reader
_CONSTRAINED = re.compile(r"\bAnnotated\[(\w+), Field\([^)]*\)\]")
_IMAGE = re.compile(r'<img [^>]*?src="[^"]*?figures/([\w-]+)\.svg"[^>]*>')
_STYLE = re.compile(
    r"<style>\n(?P<light>.*)\n@media \(prefers-color-scheme:dark\)\{(?P<dark>.*)\}\n</style>"
)
# CSS nesting: the rules hold within the figure alone.
_SCOPED = (
    "<style>.figure-{name}{{{light}}}\n"
    "[data-md-color-scheme=slate] .figure-{name}{{{dark}}}</style>"
)


class Setting(typing.NamedTuple):
    """One row of the reference."""

    name: str
    type: str
    default: str
    """Empty if the setting is required."""
    description: str


def settings_reference() -> str:
    """Write the reference as Markdown: a table for each section, in the order of the classes."""
    parts = [
        "# Settings\n",
        "Every key of a configuration. `--set section.key=value` overrides one.\n",
    ]
    for path, section in sections():
        if not (rows := list(settings_of(section))):
            continue
        lines = [f"| `{one.name}` | {_cell(one)} | {_escaped(one.description)} |" for one in rows]
        head = ["| key | type and default | meaning |", "| --- | --- | --- |"]
        parts.append(
            "\n".join([f"## {'.'.join(path)}\n", _summary(section), "", *head, *lines, ""])
        )
    return "\n".join(parts)


def settings_of(section: type[typing.Any]) -> Iterator[Setting]:
    """Yield the settings of a section that are not sections themselves, inherited ones first."""
    nested = {path[0] for path, _ in sections(section) if path}
    for kind in reversed(section.__mro__):
        if dataclasses.is_dataclass(kind):
            yield from (one for one in _fields_of(kind) if one.name not in nested)


def _fields_of(section: type[typing.Any]) -> Iterator[Setting]:
    """Yield the fields that the source of a class has."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    described = zip(definition.body, [*definition.body[1:], None], strict=True)
    for statement, following in described:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            default = "" if statement.value is None else ast.unparse(statement.value)
            type_name = _CONSTRAINED.sub(r"\1", ast.unparse(statement.annotation))
            type_name = _TEXT.sub("str", type_name)
            yield Setting(statement.target.id, type_name, default, _text_of(following))


def _text_of(statement: ast.stmt | None) -> str:
    """The text of a docstring below a field; empty if there is none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _cell(setting: Setting) -> str:
    default = f", `{setting.default}`" if setting.default else ", required"
    # NOTE: a bar within code is no border of a cell to mkdocs, which would show a backslash.
    return f"`{setting.type}`{default}"


def _summary(section: type[typing.Any]) -> str:
    return " ".join((inspect.getdoc(section) or "").split())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def on_page_content(html: str, config: typing.Any, **_: typing.Any) -> str:
    """Return the content of a page with its figures in it; mkdocs calls this for every page."""
    return inline_figures(html, Path(config["docs_dir"]) / "figures")


def inline_figures(html: str, folder: Path) -> str:
    """Replace the images of a page by the SVG files they name.

    Raises:
        ValueError: a figure has no style for both schemes.
        OSError: there is no such file.
    """
    return _IMAGE.sub(lambda found: _read_figure(folder, found[1]), html)


def _read_figure(folder: Path, name: str) -> str:
    """Read a figure, with a style that holds for it alone and follows the scheme of the page."""
    text = (folder / f"{name}.svg").read_text("utf-8").strip()
    style = _STYLE.search(text)
    if style is None:
        raise ValueError(
            f"{folder / name}.svg: no <style> of a line for light and one for dark, as in pair.svg"
        )
    scoped = _SCOPED.format(name=name, **style.groupdict())
    text = text[: style.start()] + scoped + text[style.end() :]
    return text.replace("<svg ", f'<svg class="figure-{name}" ', 1)


def main(arguments: list[str]) -> None:
    """Write the reference to the file named."""
    [path] = map(Path, arguments)
    with atomic_path(path) as temporary:
        temporary.write_text(settings_reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
