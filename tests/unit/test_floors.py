"""Decisions about the code as a whole, kept: who may import whom, who may print, what is banned."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import output_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("configs", "featurize", "headtrain")
SOURCES = sorted(
    [ROOT / "cli.py", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
)

FLOORS = (
    ("featurize.settings", "featurize.errors", "featurize.arrays"),
    ("featurize.io",),
    ("featurize.data", "featurize.model", "featurize.store"),
    ("featurize.run",),
    ("headtrain.settings", "headtrain.tracking"),
    ("headtrain.metrics",),
    ("headtrain.features", "headtrain.pairs", "headtrain.head"),
    ("headtrain.training",),
    ("headtrain.evaluation",),
    (
        "headtrain.sweep",
        "headtrain.scoring",
        "headtrain.report",
        "headtrain.rewards",
        "headtrain.export",
    ),
    ("configs",),
    ("cli",),
)
"""Rooms from the ground up: each may import those below it, and its neighbours on one floor as
long as none of them imports it back."""

EXCEPTIONS: set[str] = set()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """Line, dotted name and node of every call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


def room_of(name: str) -> str | None:
    """The room a module is in; None for the two packages themselves, which hold no code."""
    rooms = [room for floor in FLOORS for room in floor]
    return next((room for room in rooms if is_within(name, {room})), None)


def imports_of_rooms() -> Iterator[tuple[str, str, str]]:
    """Every import across rooms: its place, the room it is in, the room it names."""
    for path in SOURCES:
        room = room_of(module_name(path))
        for line, imported in imports(path):
            if imported.partition(".")[0] in {"cli", "tests", *PACKAGES}:
                other = room_of(imported)
                where = f"{module_name(path)}:{line} imports {imported}"
                if other != room or other is None:
                    yield where, str(room), str(other)


def test_the_sources_are_found() -> None:
    names = {module_name(path) for path in SOURCES}
    assert {"cli", "featurize.store", "headtrain.tracking", "configs.loader"} <= names


def test_every_module_is_in_a_room() -> None:
    names = [module_name(path) for path in SOURCES if path.name != "__init__.py"]
    assert [name for name in names if room_of(name) is None] == []


def test_no_room_imports_a_floor_above_it() -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    wrong = {
        where.partition(":")[0] + where[where.index(" ") :]
        for where, room, other in imports_of_rooms()
        if other not in floor_of or floor_of[other] > floor_of[room]
    }
    assert wrong == EXCEPTIONS


def test_rooms_of_one_floor_do_not_import_each_other_in_circles() -> None:
    edges = {(room, other) for _, room, other in imports_of_rooms()}
    neighbours = {room: {b for a, b in edges if a == room} for floor in FLOORS for room in floor}

    def reaches(room: str, goal: str, floor: tuple[str, ...], seen: set[str]) -> bool:
        steps = (neighbours[room] & set(floor)) - seen
        return goal in steps or any(reaches(s, goal, floor, seen | {s}) for s in steps)

    circles = [room for floor in FLOORS for room in floor if reaches(room, room, floor, set())]
    assert circles == []


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_in_a_sentence_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith((".", ":")), first
    assert len(first.split()) >= 4, first


def test_only_the_command_line_prints_and_exits() -> None:
    found = {
        (module_name(path), name)
        for path in SOURCES
        for _, name, _ in calls(path)
        if name in ("print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write")
    }
    assert found == {("configs.console", "print")}


def test_only_the_command_line_knows_typer() -> None:
    found = {
        module_name(path)
        for path in SOURCES
        for _, name in imports(path)
        if is_within(name, {"typer"})
    }
    assert found == {"cli", "configs.console"}


def test_only_tracker_and_export_know_mlflow() -> None:
    found = {
        module_name(path)
        for path in SOURCES
        for _, name in imports(path)
        if is_within(name, {"mlflow"})
    }
    exports = {"headtrain.export.mlflow_folder", "headtrain.export.mlflow_model"}
    assert found == {"headtrain.tracking.server", *exports}


def test_nothing_is_unpickled() -> None:
    """A checkpoint from elsewhere must not run code."""
    unpicklers = {"dill", "cloudpickle", "joblib", "marshal", "shelve"}
    found = []
    for path in SOURCES:
        found += [(path.name, name) for _, name in imports(path) if is_within(name, unpicklers)]
        text = path.read_text(encoding="utf-8")
        # The class of an error, to be caught where torch raises it, is all anyone may want of it.
        found += [
            (path.name, f"pickle.{name}")
            for name in re.findall(r"\bpickle(?:\.| import )(\w+)", text)
            if name != "UnpicklingError"
        ]
        for line, name, call in calls(path):
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name == "torch.load" and keywords.get("weights_only") != "True":
                found.append((path.name, f"line {line}: torch.load without weights_only=True"))
            if keywords.get("allow_pickle", "False") != "False":
                found.append((path.name, f"line {line}: allow_pickle"))
    assert found == []


def test_features_are_read_and_merged_and_heads_trained_without_transformers() -> None:
    code = (
        "import sys, featurize.store, featurize.run.merging\n"
        "import headtrain.training.run, headtrain.evaluation.evaluate\n"
        "print([name for name in ('transformers', 'mlflow') if name in sys.modules])"
    )
    assert output_of(code) == "[]\n"


def test_importing_every_module_does_nothing() -> None:
    """No output, no file, no device query, no change of logging or of the environment."""
    # MLflow runs this file itself, as the code of a model.
    names = {module_name(path) for path in SOURCES} - {"headtrain.export.mlflow_model"}
    code = (
        "import importlib, logging, os, sys, torch, transformers\n"
        "def refuse(*_): raise AssertionError('a device was asked for at import')\n"
        "torch.cuda.is_available = refuse\n"
        "def state():\n"
        "    own = {k: v for k, v in os.environ.items() if not k.startswith('TORCH')}  # its own\n"
        "    return own, list(logging.root.handlers), logging.root.level\n"
        "before = state()\n"
        f"for name in {sorted(names)}: importlib.import_module(name)\n"
        "assert state() == before, (state(), before)\n"
    )
    assert output_of(code) == ""
