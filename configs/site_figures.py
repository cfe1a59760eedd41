"""Puts the figures of the documents into the pages of the site, where they take its colours.

mkdocs calls `on_page_content` (see mkdocs.yml). A figure in a file of its own can only follow the
scheme of the operating system; as a part of the page it follows the button of the page too.
"""

import re
from pathlib import Path
from typing import Any

_IMAGE = re.compile(r'<img [^>]*?src="[^"]*?figures/([\w-]+)\.svg"[^>]*>')
_STYLE = re.compile(
    r"<style>\n(?P<light>.*)\n@media \(prefers-color-scheme:dark\)\{(?P<dark>.*)\}\n</style>"
)
# CSS nesting: the rules hold within the figure alone.
_SCOPED = (
    "<style>.figure-{name}{{{light}}}\n"
    "[data-md-color-scheme=slate] .figure-{name}{{{dark}}}</style>"
)


def on_page_content(html: str, config: Any, **_: Any) -> str:
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
