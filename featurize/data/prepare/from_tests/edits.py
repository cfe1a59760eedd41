"""Finds the places of a Python program where a rule may change it, and changes one of them.

A *rule* looks at one function and yields edits; an edit, when called, changes the tree in place.
Rewrites (same results) and mutants (other results) are both catalogues of such rules.
"""

import ast
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from featurize.data.prepare.from_tests.names import Scope, used_names

Edit = Callable[[], None]
Rule = Callable[[Scope], Iterator[Edit]]

# Annotations say nothing about results, and f-strings cannot be edited safely: before Python 3.12
# ast.unparse fails on some quotes within them.
_SKIPPED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "ctx", "type_comment"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One expression and where it hangs in the tree."""

    parent: ast.AST
    field: str
    index: int | None  # position when the field is a list
    node: ast.expr

    def put(self, new: ast.expr) -> None:
        """Hang another expression at this place."""
        if self.index is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.index] = new

    @property
    def is_test(self) -> bool:
        """Whether only the truth of the expression counts here, not its value."""
        if isinstance(self.parent, ast.If | ast.While | ast.IfExp):
            return self.field == "test"
        if isinstance(self.parent, ast.comprehension):
            return self.field == "ifs"
        return isinstance(self.parent, ast.UnaryOp) and isinstance(self.parent.op, ast.Not)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A list of statements that run one after the other, and the node they belong to."""

    owner: ast.AST
    field: str
    statements: list[ast.stmt]


@dataclass(frozen=True, kw_only=True, slots=True)
class EditedProgram:
    """A program after one edit."""

    source: str
    rule: str


ExpressionRule = Callable[[Slot, Scope], Iterator[ast.expr]]
BlockRule = Callable[[Block, int, Scope], Iterator["Splice"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Splice:
    """Statements that take the place of `length` statements of a block."""

    length: int
    statements: list[ast.stmt]


def expression_slots(root: ast.AST) -> Iterator[Slot]:
    """Every expression below `root` whose value is read, parents first."""
    for field, value in ast.iter_fields(root):
        if field in _SKIPPED_FIELDS:
            continue
        children = value if isinstance(value, list) else [value]
        for position, child in enumerate(children):
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            stored = isinstance(getattr(child, "ctx", None), ast.Store | ast.Del)
            if isinstance(child, ast.expr) and not stored:
                index = position if isinstance(value, list) else None
                yield Slot(parent=root, field=field, index=index, node=child)
            yield from expression_slots(child)


def blocks(root: ast.AST) -> Iterator[Block]:
    """Every block of statements below `root`, outer ones first."""
    for field, value in ast.iter_fields(root):
        if not isinstance(value, list) or not value or isinstance(value[0], ast.expr):
            continue
        if isinstance(value[0], ast.stmt):
            yield Block(owner=root, field=field, statements=value)
        for child in value:
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield from blocks(child)


def rule_on_expressions(find: ExpressionRule) -> Rule:
    """A rule from a function that yields what may stand in an expression's place."""

    def rule(scope: Scope) -> Iterator[Edit]:
        for slot in expression_slots(scope.function):
            for new in find(slot, scope):
                yield partial(slot.put, new)

    return rule


def rule_on_blocks(find: BlockRule) -> Rule:
    """A rule from a function that yields what may stand in place of statements of a block."""

    def rule(scope: Scope) -> Iterator[Edit]:
        for block in blocks(scope.function):
            for start in range(len(block.statements)):
                for splice in find(block, start, scope):
                    yield partial(_splice, block.statements, start, splice)

    return rule


def _splice(statements: list[ast.stmt], start: int, splice: Splice) -> None:
    statements[start : start + splice.length] = splice.statements


def normalise(source: str) -> str:
    """The program as `ast.unparse` prints it, without docstrings: layout then tells nothing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.body and _is_docstring(node.body[0]):
                del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())
    return ast.unparse(tree) + "\n"


def _is_docstring(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return False
    return isinstance(statement.value.value, str)


def edit_once(
    source: str,
    rules: Mapping[str, Rule],
    *,
    functions: frozenset[str],
    keywords: frozenset[str],
    rng: random.Random,
) -> EditedProgram | None:
    """Apply one edit by a randomly drawn rule, or None where no rule applies.

    The rule is drawn first and the place second: a rule that fits everywhere is not preferred.
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
        # Parsed again, so that equal programs have equal text whatever edits led to them.
        edited = normalise(ast.unparse(ast.fix_missing_locations(tree)))
        if edited != source:
            return EditedProgram(source=edited, rule=name)
        tree = ast.parse(source)
    return None
