"""The map in docs/architecture.md shows the code as it is."""

import re
from pathlib import Path

from tests.unit.test_floors import FLOORS, SOURCES, module_name

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
ADDED = re.compile(r"`((?:featurize|headtrain|configs|cli)[\w./*]*)`")


def rooms_of_tree() -> dict[str, set[str]]:
    """The modules of each room in the map."""
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", TEXT, re.DOTALL)
    assert tree is not None
    rooms: dict[str, set[str]] = {}
    name = ""
    for line in tree[1].splitlines():
        if line.startswith(" "):
            rooms[name] |= {word.strip() for word in line.split(",") if word.strip()}
        else:
            name, _, description = line.partition("  ")
            assert len(description.split()) >= 3, line
            rooms[name] = set()
    return rooms


def test_the_tree_has_every_room_and_module_and_no_other() -> None:
    found: dict[str, set[str]] = {"cli.py": set()}
    for path in SOURCES:
        if path.parent == ROOT:
            continue
        room = found.setdefault(f"{path.parent.relative_to(ROOT)}/", set())
        if path.name != "__init__.py":
            room.add(path.stem)
    assert rooms_of_tree() == found


def test_the_floors_are_those_that_are_kept() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", TEXT, re.MULTILINE)
    floors = [set(re.findall(r"`([\w.]+?)(?:\.py)?`", cell.partition(":")[0])) for _, cell in rows]
    assert floors[::-1] == [set(floor) for floor in FLOORS]


def test_every_place_it_names_exists() -> None:
    modules = {module_name(path) for path in SOURCES}
    wrong = []
    for name in ADDED.findall(TEXT):
        is_path = "/" in name or name.endswith((".py", ".yaml"))
        is_there = any(ROOT.glob(name.rstrip("/"))) if is_path else name in modules
        if not is_there and not (ROOT / name).is_dir():
            wrong.append(name)
    assert wrong == []
