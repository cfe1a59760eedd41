"""What the documents promise: commands that parse, settings and files that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli import app
from configs.loader import load_config
from configs.options import EXAMPLES

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:console|bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^]]*\]\(([^)#]+)")


def shell_lines(document: Path) -> list[str]:
    """The commands of the shell blocks: lines that begin with a prompt, continued ones joined."""
    blocks = BLOCK.findall(document.read_text(encoding="utf-8"))
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def critic_commands() -> Iterator[tuple[str, list[str]]]:
    """Every `critic ...` of every document, with the variable it takes its settings from."""
    for document in DOCUMENTS:
        variables: dict[str, str] = {}
        for line in shell_lines(document):
            if found := re.match(r"""^(?:export )?([A-Z]+)=["'](.*)["']$""", line):
                variables[found[1]] = found[2]
                continue
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(line, comments=True)
            if words and words[0] == "critic":
                yield f"{document.name}: {line}", words[1:]


COMMANDS = dict(critic_commands()) | {
    f"help of {name}: {line}": shlex.split(line)[1:]
    for name, lines in EXAMPLES.items()
    for line in lines
}


def parse(words: list[str]) -> dict[str, Any]:
    """The options a command would be called with; unknown ones and wrong types are refused."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return dict(command.make_context("critic", list(words)).params)


def test_the_documents_hold_commands() -> None:
    assert len([name for name in COMMANDS if name.startswith("README.md")]) >= 9


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_documents_parses_and_its_settings_exist(name: str) -> None:
    options = parse(COMMANDS[name])
    overrides = [value for value in options.get("overrides") or [] if "..." not in value]
    config = options.get("config")
    load_config(ROOT / config if config else None, overrides)


def test_an_unknown_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parse(["featurize", "--split", "train", "--no-such-option"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text("utf-8")) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_test_that_the_documents_name_exists() -> None:
    files = [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("tests/**/*.py")]
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"[\w/]*\btest_\w+\.py", document.read_text("utf-8"))
    }
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_of_the_documents_exists(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    asked = [words[1] for line in shell_lines(document) if (words := line.split())[0] == "make"]
    assert [name for name in asked if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_every_document_is_in_the_contents_of_the_site() -> None:
    pages = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    generated = {"reference/commands.md", "reference/settings.md"}
    assert sorted(pages) == sorted({path.name for path in DOCUMENTS[1:]} | generated)
