"""Python code as patterns: `A if C else B` finds such an expression and names its parts.

A capital letter matches any expression, X and Y only a variable. A word in capitals matches one or
more statements, up to the end of their block; `@` matches any binary operator. In a template,
`NOT(A)` is the negation of A.
"""

import ast
from typing import Any, TypeAlias

from featurize.data.prepare.from_tests.nodes import negate, replace

Code: TypeAlias = ast.expr | list[ast.stmt]
Parts: TypeAlias = dict[str, Any]
"""Expressions, lists of statements and an operator, by name."""

_VARIABLES = ("X", "Y")
_IGNORED_FIELDS = ("ctx", "kind", "type_comment")


def parse(text: str) -> Code:
    """Read an expression, a slice such as `[A:]`, or statements."""
    if text.startswith("["):
        subscript = ast.parse(f"X{text}", mode="eval").body
        assert isinstance(subscript, ast.Subscript)
        return subscript.slice
    match ast.parse(text).body:
        case [ast.Expr(value=value) as statement] if not _is_block(statement):
            return value
        case body:
            return body


def ends_with_block(pattern: Code) -> bool:
    """Whether the pattern takes all statements up to the end of their block."""
    return isinstance(pattern, list) and _is_block(pattern[-1])


def _is_block(node: object) -> bool:
    match node:
        case ast.Expr(value=ast.Name(id=name)):
            return name.isupper() and len(name) > 1
    return False


def fits(pattern: Any, found: Any, parts: Parts) -> bool:
    """Whether code has the form of a pattern; puts what its names match into `parts`."""
    match pattern:
        case ast.Name(id=name) if name in _VARIABLES:
            return isinstance(found, ast.Name) and parts.setdefault(name, found).id == found.id
        case ast.Name(id=name) if name.isupper():
            parts[name] = found
            return isinstance(found, ast.expr) and not isinstance(found, ast.Starred)
        case ast.MatMult():
            parts["@"] = found
            return True
        case [*first, ast.Expr(value=ast.Name(id=name)) as last] if _is_block(last):
            parts[name] = found[len(first) :]
            return bool(parts[name]) and fits(first, found[: len(first)], parts)
        case list():
            pairs = zip(pattern, found, strict=False)
            return len(pattern) == len(found) and all(fits(one, node, parts) for one, node in pairs)
        case ast.AST():
            return type(pattern) is type(found) and all(
                fits(part, getattr(found, field), parts)
                for field, part in ast.iter_fields(pattern)
                if field not in _IGNORED_FIELDS
            )
    return type(pattern) is type(found) and bool(pattern == found)


def write(template: Any, parts: Parts) -> Any:
    """Fill parts in for the names of a template."""
    match template:
        case ast.Call(func=ast.Name(id="NOT"), args=[test]):
            return negate(write(test, parts))
        case ast.Name(id=name) if name in parts:
            return parts[name]
        case ast.MatMult():
            return parts["@"]
        case list():
            return [new for one in template for new in _write_item(one, parts)]
        case ast.AST():
            fields = ast.iter_fields(template)
            return replace(template, **{name: write(part, parts) for name, part in fields})
    return template


def code(text: str, **parts: Any) -> Any:
    """Write code with these parts."""
    return write(parse(text), parts)


def _write_item(item: Any, parts: Parts) -> list[Any]:
    """Return a statement filled in, or the statements that a name has matched."""
    if _is_block(item) and isinstance(block := parts.get(item.value.id), list):
        return block
    return [write(item, parts)]
