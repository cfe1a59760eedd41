"""A dataset is made from three small problems, and every label is verified once more."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from featurize.data.prepare.from_tests import sandbox
from featurize.data.prepare.from_tests.isolation import IsolationError
from featurize.data.prepare.from_tests.job import make_dataset, origin_of_tests
from featurize.data.prepare.from_tests.sandbox import Protection
from featurize.data.prepare.from_tests.summary import (
    PrepareSummary,
    longer_is_correct,
    mean_output_chars,
)
from featurize.data.prepare.settings import PrepareTestsSettings
from featurize.errors import CriticError

PROBLEMS = [
    {
        "task_id": 1,
        "text": "Write a function that counts the even numbers above a limit.",
        "code": (
            "def count_even(numbers, limit):\n    total = 0\n    for number in numbers:\n"
            "        if number > limit and number % 2 == 0:\n            total += 1\n"
            "    return total\n"
        ),
        "test_list": [
            "assert count_even([1, 2, 3, 4, 6], 2) == 2",
            "assert count_even([], 0) == 0",
            "assert count_even([2, 2, 3], 1) == 2",
            "assert count_even([2, 4], 2) == 1",
        ],
    },
    {
        "task_id": "T/2",
        "prompt": (
            'def double(a):\n    """Twice a."""\n    return 2 * a\n\n\n'
            'def longest(words):\n    """The first longest word, twice; None for no words."""\n'
        ),
        "canonical_solution": (
            "    # look at every word\n    best = None\n    for word in words:\n"
            "        if best is None or len(word) > len(best):\n            best = word\n"
            "    return double(best) if best is not None else None\n"
        ),
        "test": (
            "def check(candidate):\n    assert candidate([]) is None\n"
            "    assert candidate(['a', 'bb', 'cc']) == 'bbbb'\n"
            "    assert candidate(['abc', 'bb']) == 'abcabc'\n"
        ),
        "entry_point": "longest",
    },
    {
        "task_id": 3,
        "text": "Write a function that tells whether all numbers are within bounds.",
        "code": "def within(x, low, high):\n    return all(low <= a <= high for a in x)",
        "test_list": [
            "assert within([1, 2], 1, 2) == True",
            "assert within([0, 1], 1, 2) == False",
            "assert within([3, 1], 1, 2) == False",
            "assert within([], 1, 2) == True",
        ],
    },
]
BROKEN = {
    "task_id": 4,
    "text": "Write a function that does not work.",
    "code": "def f(a):\n    return a",
    "test_list": ["assert f(1) == 2"],
}
SETTINGS = PrepareTestsSettings(train_fraction=0.5, valid_fraction=0.5, workers=1)


def prepare_tests(source: str, **options: Any) -> PrepareSummary:
    # The labels are the same under every protection, and tests run where there is none.
    return make_dataset(origin_of_tests(source), is_unsafe_allowed=True, **options)


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "mini.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*PROBLEMS, BROKEN]))
    return str(path)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def to_tests(problem_id: str) -> str:
    row = PROBLEMS[{"mini/1": 0, "T/2": 1, "mini/3": 2}[problem_id]]
    if "test_list" in row:
        return "\n".join(row["test_list"])  # type: ignore[arg-type]
    return f"{row['test']}\ncheck({row['entry_point']})"


def passes(row: dict[str, Any]) -> bool:
    try:
        exec(row["output"] + "\n" + to_tests(row["problem_id"]), {})
    except AssertionError:
        return False
    return True


def test_every_label_holds_and_both_labels_are_alike(source: str, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    summary = prepare_tests(
        source=source,
        out_dir=tmp_path / "out",
        settings=SETTINGS,
        progress=lambda done, total: seen.append((done, total)),
    )
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 18
    for row in rows:
        assert passes(row) is row["is_correct"]
        assert '"""' not in row["output"]
        assert "#" not in row["output"]
        assert row["metadata"]["source"] == "mini"
        assert row["metadata"]["language"] == "python"
    assert len({row["task_id"] for row in rows}) == 18
    assert len({row["output"] for row in rows}) == 18
    for problem_id in ("mini/1", "T/2", "mini/3"):
        labels = [row["is_correct"] for row in rows if row["problem_id"] == problem_id]
        assert sorted(labels) == [False] * 3 + [True] * 3
    # The same rewrites are behind the two labels.
    rewrites = {
        label: sorted(row["metadata"]["rewrites"] for row in rows if row["is_correct"] is label)
        for label in (True, False)
    }
    assert rewrites[True] == rewrites[False]
    assert all((row["metadata"]["mutation"] is None) is row["is_correct"] for row in rows)
    assert summary.refused_problems == {
        "reference does not pass (wrong: AssertionError)": ["mini/4"]
    }
    assert (summary.problems, summary.complete_problems, summary.short_problems) == (4, 3, [])
    ends = summary.passed + summary.wrong + summary.crashed + summary.timed_out
    assert summary.candidates == ends >= 18
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]
    by_split = {
        path.stem: {json.loads(line)["problem_id"] for line in path.read_text().splitlines()}
        for path in (tmp_path / "out").glob("*.jsonl")
    }
    assert set(by_split) == {"train", "valid"}
    assert not by_split["train"] & by_split["valid"]
    counts = {name: split["problems"] for name, split in summary.samples.items()}
    assert counts == {name: len(ids) for name, ids in by_split.items()}


def test_bytes_depend_on_the_seed_and_not_on_the_workers(source: str, tmp_path: Path):
    content = {}
    for name, changes in {
        "one": {"workers": 1},
        "again": {"workers": 1},
        "two": {"workers": 2},
        "seed": {"seed": 1},
    }.items():
        settings = PrepareTestsSettings(**{"train_fraction": 0.5, "valid_fraction": 0.5, **changes})
        prepare_tests(source=source, out_dir=tmp_path / name, settings=settings)
        content[name] = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    assert set(content["one"]) == {"train.jsonl", "valid.jsonl", "summary.json"}
    assert content["one"] == content["again"] == content["two"]
    assert content["one"]["train.jsonl"] != content["seed"]["train.jsonl"]


def test_a_dataset_is_made_again_only_if_it_is_damaged(source: str, tmp_path: Path):
    out = tmp_path / "out"
    made = prepare_tests(source=source, out_dir=out, settings=SETTINGS)
    assert not made.was_up_to_date
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    found = prepare_tests(source=source, out_dir=out, settings=SETTINGS)
    assert found.was_up_to_date
    assert found.to_json() == made.to_json()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before
    (out / "valid.jsonl").write_text("")
    assert not prepare_tests(source=source, out_dir=out, settings=SETTINGS).was_up_to_date
    assert {path: path.read_bytes() for path in out.iterdir()} == {
        path: content for path, (_, content) in before.items()
    }


def test_other_parameters_need_overwrite(source: str, tmp_path: Path):
    out = tmp_path / "out"
    prepare_tests(source=source, out_dir=out, settings=SETTINGS)
    other = {"correct": 1, "incorrect": 2, "train_fraction": 1.0, "valid_fraction": 0.0}
    with pytest.raises(CriticError, match="correct 3, not 1"):
        prepare_tests(source=source, out_dir=out, settings=PrepareTestsSettings(**other))
    summary = prepare_tests(
        source=source, out_dir=out, settings=PrepareTestsSettings(**other), overwrite=True
    )
    assert summary.samples == {"train": {"problems": 3, "correct": 3, "incorrect": 6}}
    assert not (out / "valid.jsonl").exists()


def test_a_source_without_any_sample_is_refused(tmp_path: Path):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(BROKEN))
    with pytest.raises(CriticError, match=r"no problem gave a sample \(reference does not"):
        prepare_tests(source=str(path), out_dir=tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out").exists()


def test_fractions_that_do_not_add_up_are_refused():
    with pytest.raises(ValidationError, match=r"add up to 0\.8"):
        PrepareTestsSettings(train_fraction=0.5)


def test_length_is_judged_over_the_pairs_of_a_problem():
    rows = [
        {"problem_id": problem_id, "is_correct": label, "output": "x" * length}
        for problem_id, label, length in [
            ("a", True, 3),
            ("a", False, 2),
            ("a", False, 3),
            ("b", True, 1),
            ("b", False, 9),
        ]
    ]
    assert longer_is_correct(rows) == 0.5
    assert longer_is_correct(rows[:2]) == 1.0
    assert longer_is_correct(rows[:1]) is None
    assert mean_output_chars(rows) == {"correct": 2.0, "incorrect": 4.67}


CLASSES = {
    "task_id": 5,
    "text": "Write a function that adds the sides of a shape.",
    "code": "def add_sides(shape):\n    return shape.a + shape.b",
    "test_list": [
        "class Shape:\n    a, b = 2, 3\nassert add_sides(Shape()) == 5",
    ],
}
BUILT_IN = {
    "task_id": 6,
    "text": "Write a function that takes the larger of two numbers.",
    "code": "def max(a, b):\n    if a > b:\n        return a\n    return b",
    "test_list": ["assert max(1, 2) == 2", "assert max(3, 2) == 3"],
}


def test_problems_whose_tests_cannot_run_apart_are_counted_and_kept(tmp_path: Path):
    path = tmp_path / "mini.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*PROBLEMS, CLASSES, BUILT_IN]))
    summary = prepare_tests(source=str(path), out_dir=tmp_path / "out", settings=SETTINGS)
    assert summary.together_problems == ["mini/5", "mini/6"]
    assert summary.describe()["tests in the program's process"] == 2
    assert summary.refused_problems == {}
    assert {"mini/5", "mini/6"} <= {row["problem_id"] for row in read_rows(tmp_path / "out")}


@pytest.mark.parametrize(
    "protection", [Protection.BUBBLEWRAP, Protection.NAMESPACES, Protection.LANDLOCK]
)
def test_the_labels_are_the_same_under_every_protection(
    source: str, tmp_path: Path, protection: Protection, monkeypatch: pytest.MonkeyPatch
):
    try:
        sandbox.check_protection(protection)
    except IsolationError as error:
        pytest.skip(f"{protection.value} cannot be set up here: {error}")
    content = []
    for one in (protection, Protection.NONE):
        monkeypatch.setattr(
            "featurize.data.prepare.from_tests.job.choose_protection",
            lambda *, is_unsafe_allowed, one=one: one,
        )
        announced: list[Protection] = []
        out = tmp_path / one.value
        prepare_tests(source=source, out_dir=out, settings=SETTINGS, announce=announced.append)
        assert announced == [one]
        content.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert content[0] == content[1]
