"""Finds where a rule may change a Python program, and applies one such change.

A *rule* looks at one function and yields edits; calling an edit changes the tree in place.
Rewrites (same results) and mutations (different results) are catalogues of rules.
"""

import ast
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from featurize.data.prepare.from_tests.names import Scope, used_names

# Annotations do not change results, and f-strings cannot be edited safely: before Python 3.12
# ast.unparse fails on some quotes within them.
_SKIPPED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "ctx", "type_comment"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One expression and its position in the tree."""

    parent: ast.AST
    field: str
    index: int | None  # position when the field is a list
    node: ast.expr

    def put(self, new: ast.expr) -> None:
        """Replace the expression."""
        if self.index is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.index] = new

    @property
    def is_test(self) -> bool:
        """Whether only the truth of the expression matters here, not its value."""
        match self.parent:
            case ast.If() | ast.While() | ast.IfExp():
                return self.field == "test"
            case ast.comprehension():
                return self.field == "ifs"
            case ast.UnaryOp(op=ast.Not()):
                return True
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A list of consecutive statements, and the node that holds them."""

    owner: ast.AST
    field: str
    statements: list[ast.stmt]

    def put(self, start: int, length: int, new: list[ast.stmt]) -> None:
        """Replace `length` statements from `start` on."""
        self.statements[start : start + length] = new


Edit = Callable[[], None]
Rule = Callable[[Scope], Iterator[Edit]]
ExpressionRule = Callable[[Slot, Scope], Iterator[ast.expr]]
StatementRule = Callable[[ast.stmt, Scope], Iterator[list[ast.stmt]]]
PairRule = Callable[[ast.stmt, ast.stmt, Scope], Iterator[list[ast.stmt]]]
BlockRule = Callable[[Block, int, Scope], Iterator[Edit]]
Find = TypeVar("Find")


class Catalogue(dict[str, Rule]):
    """Rules by name."""

    def add(self, name: str, to_rule: Callable[[Find], Rule]) -> Callable[[Find], Find]:
        """Decorate a function that `to_rule` makes a rule of."""

        def decorate(find: Find) -> Find:
            self[name] = to_rule(find)
            return find

        return decorate


def on_expressions(find: ExpressionRule) -> Rule:
    """Make a rule of a function that yields replacements of one expression."""

    def rule(scope: Scope) -> Iterator[Edit]:
        for slot in expression_slots(scope.function):
            for new in find(slot, scope):
                yield partial(slot.put, new)

    return rule


def on_blocks(find: BlockRule) -> Rule:
    """Make a rule of a function that yields edits of a block at one of its statements."""

    def rule(scope: Scope) -> Iterator[Edit]:
        for block in blocks(scope.function):
            for start in range(len(block.statements)):
                yield from find(block, start, scope)

    return rule


def on_statements(find: StatementRule) -> Rule:
    """Make a rule of a function that yields replacements of one statement."""

    def find_in_block(block: Block, start: int, scope: Scope) -> Iterator[Edit]:
        for new in find(block.statements[start], scope):
            yield partial(block.put, start, 1, new)

    return on_blocks(find_in_block)


def on_pairs(find: PairRule) -> Rule:
    """Make a rule of a function that yields replacements of two consecutive statements."""

    def find_in_block(block: Block, start: int, scope: Scope) -> Iterator[Edit]:
        if start + 1 < len(block.statements):
            for new in find(block.statements[start], block.statements[start + 1], scope):
                yield partial(block.put, start, 2, new)

    return on_blocks(find_in_block)


def expression_slots(root: ast.AST) -> Iterator[Slot]:
    """Find every expression below `root` whose value is read, parents first."""
    for field, value in ast.iter_fields(root):
        if field in _SKIPPED_FIELDS:
            continue
        children = value if isinstance(value, list) else [value]
        for position, child in enumerate(children):
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            is_stored = isinstance(getattr(child, "ctx", None), ast.Store | ast.Del)
            if isinstance(child, ast.expr) and not is_stored:
                index = position if isinstance(value, list) else None
                yield Slot(parent=root, field=field, index=index, node=child)
            yield from expression_slots(child)


def blocks(root: ast.AST) -> Iterator[Block]:
    """Find every block of statements below `root`, outer ones first."""
    for field, value in ast.iter_fields(root):
        if not isinstance(value, list) or not value or isinstance(value[0], ast.expr):
            continue
        if isinstance(value[0], ast.stmt):
            yield Block(owner=root, field=field, statements=value)
        for child in value:
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield from blocks(child)


def normalise(source: str) -> str:
    """Format a program as `ast.unparse` does, without docstrings, so that layout is no signal."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())
    return ast.unparse(tree) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class EditedProgram:
    """A program after one edit."""

    source: str
    rule: str


def edit_once(
    source: str,
    rules: Mapping[str, Rule],
    *,
    functions: frozenset[str],
    rng: random.Random,
    keywords: frozenset[str] = frozenset(),
) -> EditedProgram | None:
    """Apply one edit to one of the `functions`; None if no rule applies.

    The rule is drawn first and its place second, so that a rule that fits everywhere is not
    preferred. `keywords` are the names of arguments that must not change.
    """
    tree = ast.parse(source)
    taken = frozenset(used_names(tree))
    for name in rng.sample(sorted(rules), len(rules)):
        edits = [
            edit
            for function in tree.body
            if isinstance(function, ast.FunctionDef) and function.name in functions
            for edit in rules[name](
                Scope(module=tree, function=function, keywords=keywords, taken=taken, rng=rng)
            )
        ]
        if not edits:
            continue
        rng.choice(edits)()
        # Parsed again, so that equal programs have equal text after any edits.
        edited = normalise(ast.unparse(ast.fix_missing_locations(tree)))
        if edited != source:
            return EditedProgram(source=edited, rule=name)
        tree = ast.parse(source)
    return None
