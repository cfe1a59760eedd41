"""Authors: which field names them, and what their success on other problems predicts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurize.data.audit.labels import read_labelled_rows
from featurize.data.audit.shortcuts import audit_authors
from featurize.data.authors import AuthorPrior
from featurize.data.index import DatasetIndex
from featurize.data.records import RowReader, check_row
from tests.support.indexed import parse_row
from tests.support.row_files import write_rows

ROW = {"instruction": "Add.", "output": "print(1)"}


@pytest.mark.parametrize(
    ("metadata", "author"),
    [
        ({"author": "ann"}, "ann"),
        ({"generator": ["b", "a", "b"]}, "a; b"),
        ({"model": "gpt-4", "response_model": "other"}, "gpt-4"),
        ({"response_model": 7}, "7"),
        ({"author": None, "generator": [], "model": " m "}, "m"),
        ({"model": {"name": "x"}}, None),
        ({"author": float("nan")}, None),
        ({}, None),
    ],
)
def test_the_author_is_read_from_the_first_field_that_names_one(metadata, author):
    row = ROW | {"metadata": metadata}
    assert parse_row(row)[0].author == author
    [quick] = RowReader().read(json.dumps(row).encode())
    assert quick.sample.author == author == check_row(row)[0].sample.author


def test_each_side_of_a_preference_has_its_own_author():
    row = {"prompt": "Add.", "chosen": "a", "rejected": "b", "chosen_model": "x"}
    row["metadata"] = {"rejected_model": "y", "language": "python"}
    assert [(s.author, s.language) for s in parse_row(row)] == [("x", "python"), ("y", "python")]


def build(tmp_path, rows):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    return DatasetIndex.build(str(path), tmp_path / "cache")


def test_the_fingerprint_changes_with_the_authors_and_has_none_without_them(tmp_path):
    rows = [ROW | {"output": str(n), "is_correct": n % 2 == 0} for n in range(4)]
    plain = build(tmp_path, rows)
    named = [row | {"metadata": {"author": "ann"}} for row in rows]
    authored = build(tmp_path, named)
    assert "author" not in plain.table.column_names
    assert plain.content_fingerprint != authored.content_fingerprint
    other = build(tmp_path, [row | {"metadata": {"author": "bob"}} for row in rows])
    assert other.content_fingerprint != authored.content_fingerprint
    kept = authored.take(np.array([True, False, True, False]))
    assert kept.table["author"].to_pylist() == ["ann", "ann"]


AUTHORS = ["a", "b", None, "a; b", "c"]
LABELS = np.array([True, False, True, False, True, False, False, True, False, False])


def test_the_prior_is_the_mean_of_label_minus_pass_rate_of_the_problem():
    problems = np.repeat([0, 1], 5)
    prior = AuthorPrior.fit(AUTHORS * 2, LABELS, problems)
    # pass rates 3/5 and 2/5 - 1/5: problem 0 has labels 1 0 1 0 1, problem 1 has 0 0 1 0 0
    a = (0.4 - 0.6 - 0.2 - 0.2) / 4
    b = (-0.6 - 0.6 - 0.2 - 0.2) / 4
    c = (0.4 - 0.2) / 2
    expected = [a, b, 0, (a + b) / 2, c, 0]
    assert prior.score([*AUTHORS, "unknown"]) == pytest.approx(expected)
    left_out = prior.score_left_out(AUTHORS * 2, LABELS, problems)
    alone = AuthorPrior.fit(AUTHORS, LABELS[5:], np.zeros(5, np.int64))
    assert left_out[:5] == pytest.approx(alone.score(AUTHORS))


@given(st.lists(st.tuples(st.sampled_from(AUTHORS), st.booleans(), st.integers(0, 3))))
def test_a_problem_never_teaches_the_prior_that_judges_it(samples):
    authors = [author for author, _, _ in samples]
    labels = np.array([label for _, label, _ in samples], bool)
    problems = np.array([problem for _, _, problem in samples], np.int64)
    prior = AuthorPrior.fit(authors, labels, problems)
    left_out = prior.score_left_out(authors, labels, problems) if samples else np.zeros(0)
    for problem in set(problems.tolist()):
        mine = problems == problem
        rest = [author for author, own in zip(authors, mine, strict=True) if not own]
        other = AuthorPrior.fit(rest, labels[~mine], problems[~mine])
        own = [author for author, is_mine in zip(authors, mine, strict=True) if is_mine]
        assert left_out[mine] == pytest.approx(other.score(own), abs=1e-9)


def test_the_audit_says_what_the_author_alone_gets(tmp_path):
    rows = [
        {
            "instruction": f"task {problem}",
            "output": f"{author} {problem}",
            "is_correct": author == "good",
            "metadata": {"generator": author},
        }
        for problem in range(6)
        for author in ("good", "bad")
    ]
    table = build(tmp_path, rows).table
    audit = audit_authors(table, read_labelled_rows(table))
    assert (audit.over_pairs, audit.over_problems, audit.num_unknown) == (1.0, 1.0, 0)
    found = {author.name: (author.num_samples, author.above_problem) for author in audit.authors}
    assert found == {"good": (6, 0.5), "bad": (6, -0.5)}
    plain = build(tmp_path, [row | {"metadata": {}} for row in rows]).table
    assert audit_authors(plain, read_labelled_rows(plain)) is None
