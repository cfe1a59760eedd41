"""An audit of a small dataset finds what enumerating everything finds."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurize.data.audit.labels import LabelledRows, audit_labels, read_labelled_rows, slice_by
from featurize.data.audit.report import AuditRequest, audit_split, write_audit
from featurize.data.audit.section import by_power_of_two
from featurize.data.audit.shortcuts import audit_lengths, measure_pairs
from featurize.data.audit.texts import (
    OverlapAudit,
    audit_overlap,
    audit_texts,
    read_statements,
    read_texts,
)
from featurize.data.index import DatasetIndex
from tests.support.tiny_jobs import write_rows


def make_row(problem: str, output: str, is_correct: bool | None, **more: Any) -> dict[str, Any]:
    metadata = {"language": more.pop("language", "python")} | more.pop("metadata", {})
    return {
        "instruction": f"Solve the problem called {problem}",
        "output": output,
        "is_correct": is_correct,
        "problem_id": problem,
        "metadata": metadata,
    } | more


def random_rows(seed: int = 0, number: int = 160) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        make_row(
            f"p{rng.integers(12)}",
            f"{place} " + "x" * int(rng.integers(0, 9)),
            (True, False, None)[int(rng.choice(3, p=(0.4, 0.5, 0.1)))],
            language=("python", "c", None)[int(rng.integers(3))],
            metadata={"difficulty": (None, 800, 1200, "hard")[int(rng.integers(4))]},
        )
        for place in range(number)
    ]


def build(folder: Path, rows: Sequence[dict[str, Any]], name: str = "train") -> DatasetIndex:
    return DatasetIndex.build(write_rows(folder / f"{name}.jsonl", rows), folder / "cache")


def listed_pairs(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (first, second)
        for first in rows
        for second in rows
        if first["is_correct"] is True and second["is_correct"] is False
        if first["problem_id"] == second["problem_id"]
        if first["metadata"]["language"] == second["metadata"]["language"]
    ]


def test_labels_and_pairs_equal_their_enumeration(tmp_path: Path) -> None:
    rows = random_rows()
    index = build(tmp_path, rows)
    audit = audit_labels(index.table, read_labelled_rows(index.table), [3, 1000])
    labels = [row["is_correct"] for row in rows]
    pairs = Counter(first["problem_id"] for first, _ in listed_pairs(rows))
    assert audit.num_samples == len(rows)
    assert (audit.num_correct, audit.num_unlabelled) == (labels.count(True), labels.count(None))
    assert (audit.num_pairs, audit.num_problems_with_pairs) == (pairs.total(), len(pairs))
    assert audit.pairs_left_by_cap == {
        3: sum(min(3, number) for number in pairs.values()),
        1000: pairs.total(),
    }
    assert audit.largest_share == max(pairs.values()) / pairs.total()
    assert sum(audit.pairs_histogram.values()) == len(pairs)
    assert sum(audit.balance) == audit.num_problems == 12


def test_problems_are_counted_by_their_labels(tmp_path: Path) -> None:
    rows = [
        *(make_row("both", f"{n}", n < 1) for n in range(4)),
        make_row("good", "a", True),
        make_row("bad", "b", False),
        make_row("bad", "c", None),
        make_row("open", "d", None),
        make_row("languages", "e", True, language="c"),  # both labels, but no pair
        make_row("languages", "f", False),
    ]
    index = build(tmp_path, rows)
    audit = audit_labels(index.table, read_labelled_rows(index.table), [])
    assert audit.num_problems == 5
    assert audit.num_problems_with_both == 2
    assert (audit.num_problems_only_correct, audit.num_problems_only_incorrect) == (1, 1)
    assert (audit.num_pairs, audit.num_problems_with_pairs) == (3, 1)
    assert audit.mean_share_correct == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert audit.balance == (1, 0, 1, 0, 0, 1, 0, 0, 0, 1)


def test_slices_equal_their_enumeration_numbers_first(tmp_path: Path) -> None:
    rows = random_rows()
    index = build(tmp_path, rows)
    slices = slice_by(index.table, read_labelled_rows(index.table), "difficulty")
    assert [part.name for part in slices] == ["800", "1200", "hard", "unknown"]
    for part in slices:
        wanted = None if part.name == "unknown" else part.name
        own = [r for r in rows if _text(r["metadata"]["difficulty"]) == wanted]
        labels = [r["is_correct"] for r in own if r["is_correct"] is not None]
        assert part.num_samples == len(own)
        assert part.num_problems == len({r["problem_id"] for r in own})
        assert part.share_correct == pytest.approx(sum(labels) / len(labels))
        assert part.num_pairs == sum(
            _text(first["metadata"]["difficulty"]) == wanted for first, _ in listed_pairs(rows)
        )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def test_the_accuracy_of_length_equals_its_enumeration(tmp_path: Path) -> None:
    rows = random_rows(seed=1)
    index = build(tmp_path, rows)
    labelled = read_labelled_rows(index.table)
    lengths = index.table["output_chars"].to_numpy().astype(np.int64)[labelled.rows]
    audit = audit_lengths(labelled, lengths, unit="characters", matched_bin=3)

    def length(row: dict[str, Any]) -> int:
        return len(row["output"])

    for found, pairs in (
        (audit.pairs, listed_pairs(rows)),
        (audit.matched, [p for p in listed_pairs(rows) if length(p[0]) // 3 == length(p[1]) // 3]),
    ):
        wins = [(length(c) > length(i)) + (length(c) == length(i)) / 2 for c, i in pairs]
        by_problem: dict[str, list[float]] = {}
        for (correct, _), win in zip(pairs, wins, strict=True):
            by_problem.setdefault(correct["problem_id"], []).append(win)
        assert (found.num_pairs, found.num_problems) == (len(pairs), len(by_problem))
        assert found.mean_difference == pytest.approx(
            np.mean([length(c) - length(i) for c, i in pairs])
        )
        assert found.longer_over_pairs == pytest.approx(np.mean(wins))
        means = [np.mean(own) for own in by_problem.values()]
        assert found.longer_over_problems == pytest.approx(np.mean(means))
    assert audit.mean_correct == pytest.approx(
        np.mean([length(row) for row in rows if row["is_correct"] is True])
    )


def test_without_pairs_length_has_no_accuracy() -> None:
    labelled = LabelledRows(
        rows=np.arange(2),
        problems=np.array([0, 1]),
        groups=np.array([0, 1]),
        is_correct=np.array([True, False]),
        problem_ids=("p", "q"),
        num_rows=2,
    )
    found = measure_pairs(labelled, labelled.groups, np.array([3, 4]))
    assert (found.num_pairs, found.mean_difference, found.longer_over_pairs) == (0, None, None)


def test_a_program_with_both_labels_is_found_whatever_its_spacing(tmp_path: Path) -> None:
    rows = [
        make_row("p", "def f():\n    return 1\n", True, task_id="a"),
        make_row("p", "def f():   \n\n    return 1", False, task_id="b"),
        make_row("p", "def f():\n  return 1", False, task_id="other indentation"),
        make_row("p", "def f():\n    return 1\n\n", True, task_id="c"),
        make_row("q", "def f():\n    return 1\n", False, task_id="other problem"),
        make_row("q", "twice", True, task_id="d"),
        make_row("q", "twice ", True, task_id="e"),
    ]
    index = build(tmp_path, rows)
    audit = audit_texts(index.table, read_labelled_rows(index.table), read_texts(index))
    (found,) = audit.contradictions
    assert (found.problem_id, found.correct, found.incorrect) == ("p", ("a", "c"), ("b",))
    assert (audit.num_contradicting_samples, audit.num_repeats) == (3, 3)


def test_a_statement_that_contains_the_solution_is_found(tmp_path: Path) -> None:
    solution = "def answer(number):\n    return number * 7 + number // 2"
    statement = {"instruction": f"Explain this:\n\n{solution.replace('    ', '  ')}\n\nThen answer"}
    rows = [
        make_row("p", solution, True, task_id="leak", **statement),
        make_row("p", solution.replace("7", "8"), True, task_id="no leak", **statement),
        make_row("p", solution + "  ", False, task_id="incorrect", **statement),
        make_row("p", "answer", True, task_id="too short", **statement),
    ]
    index = build(tmp_path, rows)
    audit = audit_texts(index.table, read_labelled_rows(index.table), read_texts(index))
    assert [(leak.problem_id, leak.task_id) for leak in audit.leaks] == [("p", "leak")]


WORDS = "count the even numbers between two given bounds and print them one a line please"


def overlap_of(
    folder: Path, rows: list[dict[str, Any]], others: list[dict[str, Any]]
) -> OverlapAudit:
    one, other = build(folder, rows), build(folder, others, "valid")
    return audit_overlap(
        read_statements(one),
        read_statements(other),
        against="valid",
        threshold=0.6,
        ngram=3,
    )


def test_shared_problems_are_found_by_id_text_and_similarity(tmp_path: Path) -> None:
    rows = [
        make_row("id", "x", True, instruction="first statement of its kind, quite alone"),
        make_row("text", "x", True, instruction=WORDS),
        make_row("near", "x", True, instruction=WORDS + " and stop there"),
        make_row("spaced", "x", True, instruction="a  b c d e f g"),
    ]
    others = [
        make_row("id", "x", True, instruction="second statement that nobody else has seen"),
        make_row("same text", "x", True, instruction=WORDS),
        make_row("caps", "x", True, instruction="A B C D E F G"),
    ]
    audit = overlap_of(tmp_path, rows, others)
    found = {(p.problem_id, p.other_id): p.kind for p in audit.shared}
    assert found == {
        ("id", "id"): "same id",
        ("text", "same text"): "identical",
        ("near", "same text"): "near",
        ("spaced", "caps"): "same but for case and spacing",
    }
    assert audit.shared_ids == ["id", "near", "spaced", "text"]
    assert [(p.problem_id, p.other_id, p.kind) for p in audit.within] == [("near", "text", "near")]
    assert (audit.num_instructions, audit.num_instructions_against) == (4, 3)
    assert audit.num_shared_instructions == 1


def test_the_input_is_part_of_a_statement(tmp_path: Path) -> None:
    def rows(*inputs: str) -> list[dict[str, Any]]:
        return [make_row(text, "x", True, instruction="Solve:", input=text) for text in inputs]

    audit = overlap_of(tmp_path, rows(WORDS, "add two and two"), rows("sum up three primes"))
    assert audit.shared == audit.within == ()
    assert (audit.num_statements, audit.num_instructions) == (2, 1)
    assert audit.num_shared_instructions == 1


def test_one_statement_under_two_ids_is_found(tmp_path: Path) -> None:
    rows = [make_row(name, "x", True, instruction=WORDS) for name in ("b", "a", "b")]
    audit = overlap_of(tmp_path, rows, [make_row("c", "x", True, instruction="something else")])
    assert [(p.problem_id, p.other_id, p.kind) for p in audit.within] == [("a", "b", "identical")]


def test_a_dataset_without_labels_or_common_problems_is_audited_and_written(
    tmp_path: Path,
) -> None:
    index = build(tmp_path, [make_row(f"p{n}", "x", None) for n in range(3)])
    request = AuditRequest(
        split="train", against=None, caps=(60,), length_bin_tokens=32, threshold=0.8, ngram=5
    )
    audit = audit_split(index, None, request)
    assert audit.labels.num_pairs == 0
    assert audit.lengths[0].mean_correct is None
    (written,) = write_audit(tmp_path / "audit", audit)
    assert json.loads(written.read_text())["labels"]["num_unlabelled"] == 3


def test_every_value_is_in_one_bin_of_a_histogram() -> None:
    assert by_power_of_two(np.array([0, 1, 2, 3, 4, 7, 8])) == {1: 1, 2: 1, 4: 2, 8: 2, 16: 1}
    assert by_power_of_two(np.array([], np.int64)) == {}


def test_statements_that_share_a_problem_id_are_counted_and_not_paired(tmp_path: Path) -> None:
    rows = [
        make_row("a", "x", True),
        make_row("a", "y", False),
        make_row("a", "z", False, instruction="Another statement"),
        make_row("b", "x", True),
    ]
    index = DatasetIndex.build(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "cache")
    labels = audit_labels(index.table, read_labelled_rows(index.table), ())
    assert (labels.num_shared_ids, labels.num_problems, labels.num_pairs) == (1, 2, 1)
