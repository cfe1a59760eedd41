"""Problem ids that several statements share are found, counted and marked."""

import numpy as np
import pyarrow as pa
import pytest

from featurize.data.index import DatasetIndex
from featurize.run.plan import Selection
from featurize.store import FeatureStore
from featurize.store.samples import find_shared_ids, mark_statements, statement_codes
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store


def table(*rows: tuple[str, str]) -> pa.Table:
    """Samples of problem and prompt."""
    problems, prompts = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"problem_id": pa.array(problems, pa.string()), "prompt_key": list(prompts)})


def test_one_statement_for_each_problem_leaves_the_table_as_it_was() -> None:
    samples = table(("a", "x"), ("b", "y"), ("a", "x"))
    assert find_shared_ids(samples) is None
    assert mark_statements(samples) is samples


def test_two_problems_may_have_the_same_statement() -> None:
    assert find_shared_ids(table(("a", "x"), ("b", "x"))) is None


def test_an_empty_table_shares_nothing() -> None:
    assert find_shared_ids(pa.table({"problem_id": pa.array([], pa.string())})) is None


def test_statements_are_numbered_within_their_problem() -> None:
    samples = table(("a", "x"), ("b", "y"), ("a", "z"), ("b", "y"), ("a", "x"), ("c", "z"))
    marked = mark_statements(samples)
    assert marked["statement"].to_pylist() == [0, 0, 1, 0, 0, 0]
    shared = find_shared_ids(marked)
    assert shared is not None
    assert (shared.num_problems, shared.num_all, shared.first) == (1, 3, "a")
    assert shared.rows == (0, 2)


def test_an_older_store_tells_statements_apart_by_their_tokens() -> None:
    samples = pa.table({"problem_id": ["a", "a", "b"], "prompt_tokens": [7, 9, 9]})
    assert statement_codes(samples).tolist() == [7, 9, 9]
    shared = find_shared_ids(samples)
    assert shared is not None
    assert shared.num_problems == 1
    assert "featurize again" in str(shared)


@pytest.fixture
def shared_rows(tmp_path) -> list[str]:
    """Two files that number their problems from 0."""
    files = []
    for name in ("easy", "hard"):
        rows = make_rows(3, 4)
        for row in rows:
            row |= {"instruction": f"{name}: {row['instruction']}", "input": ""}
            del row["task_id"]
        files.append(write_rows(tmp_path / f"{name}.jsonl", rows))
    return files


def test_the_plan_counts_shared_ids_and_names_the_lines(tmp_path, shared_rows, caplog) -> None:
    plan = make_plan(tmp_path, shared_rows)
    assert plan.describe()["problem ids with several statements"] == 3
    plan.check_samples(strict=False)
    assert "3 of 3 problem ids have several statements, the first is 'p0'" in caplog.text
    with pytest.raises(ValueError, match="give every statement its own problem_id") as caught:
        plan.check_samples(strict=True)
    assert "easy.jsonl:1" in str(caught.value)
    assert "hard.jsonl:1" in str(caught.value)


def test_the_lines_are_right_where_only_the_samples_of_pairs_are_planned(
    tmp_path, shared_rows
) -> None:
    whole = make_plan(tmp_path, shared_rows)
    last = Selection(pairs=None, also=np.array([len(whole.index) - 1]))
    assert make_plan(tmp_path, shared_rows, choose=lambda *_: last).shared_at == whole.shared_at


def test_a_store_keeps_the_statements_and_no_other_store_has_the_column(
    tmp_path, shared_rows
) -> None:
    path = write_store(make_plan(tmp_path, shared_rows))
    samples = FeatureStore.open(path).samples
    index = DatasetIndex.build(shared_rows, tmp_path / "cache" / "index")
    assert samples["statement"].to_pylist() == mark_statements(index.table)["statement"].to_pylist()
    whole = write_store(make_plan(tmp_path / "plain", shared_rows[0]))
    assert "statement" not in FeatureStore.open(whole).samples.column_names
