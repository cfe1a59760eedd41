"""The reference of every setting as a page of the documents, from the settings classes themselves.

Run by `make docs`: `python -m configs.reference FILE`.
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from configs.config import Config
from featurize.io.files import atomic_path


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
    for path, section in sections(Config):
        if not (rows := list(settings_of(section))):
            continue
        lines = [f"| `{one.name}` | {_cell(one)} | {_escaped(one.description)} |" for one in rows]
        head = ["| key | type and default | meaning |", "| --- | --- | --- |"]
        parts.append("\n".join([f"## {path}\n", _summary(section), "", *head, *lines, ""]))
    return "\n".join(parts)


def sections(
    settings: type[typing.Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, type[typing.Any]]]:
    """Yield every section below a settings class with its path, such as `training`."""
    for name, hint in typing.get_type_hints(settings).items():
        for kind in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield ".".join([*path, name]), kind
                yield from sections(kind, (*path, name))


def settings_of(section: type[typing.Any]) -> Iterator[Setting]:
    """Yield the settings of a section that are not sections themselves, inherited ones first."""
    nested = {path for path, _ in sections(section)}
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
            type_name = ast.unparse(_plain(statement.annotation))
            yield Setting(statement.target.id, type_name, default, _text_of(following))


def _plain(annotation: ast.expr) -> ast.expr:
    """Leave the constraints out of a type: Annotated[int, Field(ge=2)] is int."""

    class _Plain(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            is_annotated = isinstance(node.value, ast.Name) and node.value.id == "Annotated"
            if is_annotated and isinstance(node.slice, ast.Tuple):
                return node.slice.elts[0]
            return self.generic_visit(node)

    plain = _Plain().visit(annotation)
    assert isinstance(plain, ast.expr)
    return plain


def _text_of(statement: ast.stmt | None) -> str:
    """The text of a docstring below a field; empty if there is none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _cell(setting: Setting) -> str:
    default = f", `{setting.default}`" if setting.default else ", required"
    return _escaped(f"`{setting.type}`{default}")


def _summary(section: type[typing.Any]) -> str:
    return " ".join((inspect.getdoc(section) or "").split())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Write the reference to the file named."""
    [path] = map(Path, arguments)
    with atomic_path(path) as temporary:
        temporary.write_text(settings_reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
