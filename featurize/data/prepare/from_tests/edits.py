"""Finds where a rule may change a Python program, and applies one such change.

A *rule* looks at one place in a function, a statement or an expression, and yields what may be
there instead. Rewrites (same results) and mutations (different results) are catalogues of rules.
"""

import ast
import builtins
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from featurize.data.prepare.from_tests import patterns
from featurize.data.prepare.from_tests.nodes import (
    load,
    loaded_names,
    parameters,
    stored_names,
    used_names,
)

# Annotations do not change results, and f-strings cannot be edited safely: before Python 3.12
# ast.unparse fails on some quotes within them.
_SKIPPED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "ctx", "type_comment"})
_INDEX_NAMES = ("i", "j", "k", "idx", "index", "pos", "p", "q")
_VALUE_NAMES = (
    *("result", "res", "ans", "answer", "out", "output", "value", "val", "temp", "tmp", "cur"),
    *("item", "items", "total", "acc", "current", "found", "data", "ret", "x", "y", "z", "v", "w"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The function that a rule looks at, and what it needs to choose new names."""

    module: ast.Module
    function: ast.FunctionDef
    keywords: frozenset[str]  # names that some call in the tests passes by keyword
    taken: frozenset[str]  # every identifier of the module
    rng: random.Random

    def fresh_name(self, *, is_index: bool = False) -> str:
        """Draw an ordinary name that the program does not use yet."""
        vocabulary = _INDEX_NAMES if is_index else _VALUE_NAMES
        free = [name for name in vocabulary if name not in self.taken]
        if free:
            return self.rng.choice(free)
        numbered = (f"{vocabulary[0]}{number}" for number in itertools.count(2))
        return next(name for name in numbered if name not in self.taken)

    def is_shadowed(self, name: str) -> bool:
        """Whether the program gives the name of a built-in function to something else."""
        bound = stored_names(self.module)
        for node in ast.walk(self.module):
            match node:
                case ast.arg(arg=found) | ast.FunctionDef(name=found) | ast.ClassDef(name=found):
                    bound.add(found)
        return name in bound

    def renameable_names(self) -> list[str]:
        """List the local variables and inner parameters that can be renamed in the whole function.

        The function's own parameters are in the signature that the instruction shows, and stay.
        """
        if loaded_names(self.function) & {"locals", "eval", "exec", "vars", "globals"}:
            return []
        bound = stored_names(self.function)
        for node in ast.walk(self.function):
            if node is not self.function and isinstance(node, ast.FunctionDef | ast.Lambda):
                bound.update(parameters(node))
        # `[sum for sum in x]` has a variable of its own; `sum(x)` beside it is the function.
        fixed = {*parameters(self.function), *self.keywords, *dir(builtins)}
        for node in ast.walk(self.module):
            fixed |= _fixed_names(node)
        fixed |= stored_names(
            *(node for node in self.module.body if not isinstance(node, ast.FunctionDef))
        )
        return sorted(bound - fixed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A statement, or an expression whose value is read, and its position in the tree."""

    scope: Scope
    parent: ast.AST
    field: str
    index: int | None  # position when the field is a list
    node: ast.stmt | ast.expr

    @property
    def rest(self) -> list[ast.stmt]:
        """The statements that follow in the same block."""
        return [] if self.index is None else getattr(self.parent, self.field)[self.index + 1 :]

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

    def put(self, new: ast.expr | list[ast.stmt], length: int | None = 1) -> None:
        """Replace the expression, or `length` statements from this one on (None: all)."""
        if self.index is None:
            setattr(self.parent, self.field, new)
            return
        nodes = getattr(self.parent, self.field)
        end = len(nodes) if length is None else self.index + length
        nodes[self.index : end] = new if isinstance(new, list) else [new]


Find = Callable[[Place], Iterator[ast.expr] | Iterator[list[ast.stmt]]]
Condition = Callable[[Place, patterns.Parts], bool]
AnyFind = TypeVar("AnyFind", bound=Find)


class Rule(NamedTuple):
    """How a program may change."""

    find: Find
    length: int | None  # number of statements that are replaced; None: all up to the block's end


class Rules(dict[str, Rule]):
    """Rules by name."""

    def write(
        self, name: str, *forms: tuple[str, ...], when: Condition = lambda place, parts: True
    ) -> None:
        """Add a rule of forms: a pattern, and what may replace it.

        The first form that fits is used, if `when` allows it for the place and its parts. NEW is a
        name that the program does not use yet. Forms of a name that is known are added to it.
        """
        parsed = [[patterns.parse(text) for text in form] for form in forms]
        pattern = parsed[0][0]
        is_open = patterns.ends_with_block(pattern)
        length = len(pattern) if isinstance(pattern, list) else 1

        def find(place: Place) -> Iterator[Any]:
            for texts, (pattern, *templates) in zip(forms, parsed, strict=True):
                parts: patterns.Parts = {}
                found: Any = place.node
                if isinstance(pattern, list):
                    following = place.rest if is_open else place.rest[: length - 1]
                    found = [place.node, *following]
                if patterns.fits(pattern, found, parts) and when(place, parts):
                    if "NEW" in texts[1]:
                        parts["NEW"] = load(place.scope.fresh_name())
                    yield from (patterns.write(one, parts) for one in templates)
                    return

        before = self.get(name)

        def find_all(place: Place) -> Iterator[Any]:
            if before is not None:
                yield from before.find(place)
            yield from find(place)

        self[name] = Rule(find_all, None if is_open else length)

    def add(self, name: str) -> Callable[[AnyFind], AnyFind]:
        """Decorate a function that yields what may replace the node at a place."""

        def decorate(find: AnyFind) -> AnyFind:
            self[name] = Rule(find, 1)
            return find

        return decorate


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
    """A program after some edits."""

    source: str
    rules: tuple[str, ...]  # applied one after another; none if no rule applies


def edit(
    source: str,
    rules: Mapping[str, Rule],
    *,
    rng: random.Random,
    helpers: frozenset[str] = frozenset(),
    keywords: frozenset[str] = frozenset(),
    count: int = 1,
) -> EditedProgram:
    """Apply up to `count` edits to the functions of a program.

    The rule is drawn first and its place second, so that a rule that fits everywhere is not
    preferred. `helpers` are functions, `keywords` names of arguments that must not change.
    """
    names: list[str] = []
    while len(names) < count:
        edited = _edit_once(source, rules, partial(_all_places, helpers, keywords, rng), rng)
        if edited is None:
            break
        source, name = edited
        names.append(name)
    return EditedProgram(source=source, rules=tuple(names))


def _edit_once(
    source: str,
    rules: Mapping[str, Rule],
    find_places: Callable[[str], list[Place]],
    rng: random.Random,
) -> tuple[str, str] | None:
    """Apply one edit; returns the new source and the name of the rule."""
    places = find_places(source)
    for name in rng.sample(sorted(rules), len(rules)):
        edits = [(place, new) for place in places for new in rules[name].find(place)]
        if not edits:
            continue
        place, new = rng.choice(edits)
        place.put(new, rules[name].length)
        # Parsed again, so that equal programs have equal text after any edits.
        try:
            edited = normalise(ast.unparse(ast.fix_missing_locations(place.scope.module)))
        except SyntaxError:  # `1 + abs(*a)` is no Python without abs
            edited = source
        if edited != source:
            return edited, name
        places = find_places(source)
    return None


def _all_places(
    helpers: frozenset[str], keywords: frozenset[str], rng: random.Random, source: str
) -> list[Place]:
    """List the places in the functions of a program; the first of each is the function itself."""
    tree = ast.parse(source)
    taken = frozenset(used_names(tree))
    places: list[Place] = []
    for index, node in enumerate(tree.body):
        if isinstance(node, ast.FunctionDef) and node.name not in helpers:
            scope = Scope(module=tree, function=node, keywords=keywords, taken=taken, rng=rng)
            places.append(Place(scope=scope, parent=tree, field="body", index=index, node=node))
            places.extend(_places(scope, node))
    return places


def _places(scope: Scope, root: ast.AST) -> Iterator[Place]:
    """Find the places below `root`, parents first, and a block's statements before their parts."""
    for field, value in ast.iter_fields(root):
        if field in _SKIPPED_FIELDS:
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        place = partial(Place, scope=scope, parent=root, field=field)
        yield from (place(index=i, node=one) for i, one in children if isinstance(one, ast.stmt))
        for i, child in children:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            is_stored = isinstance(getattr(child, "ctx", None), ast.Store | ast.Del)
            if isinstance(child, ast.expr) and not is_stored:
                yield place(index=i, node=child)
            yield from _places(scope, child)


def _fixed_names(node: ast.AST) -> set[str]:
    """Collect the names that a node binds or mentions elsewhere than in ast.Name and ast.arg."""
    match node:
        case ast.keyword(arg=str(name)):
            return {name}
        case ast.alias():
            return {(node.asname or node.name).split(".")[0]}
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Global(names=names):
            return set(names)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            return {name}
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            return {name}
    return set()
