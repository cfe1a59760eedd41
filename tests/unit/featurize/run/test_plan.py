"""The plan of a featurize run depends on what the dataset says, not on its files."""

import random

import pytest

from featurize.data.prompt import TEMPLATE
from featurize.errors import FeatureStoreError
from featurize.run.units import CHARS_PER_TOKEN, group_starts
from featurize.store import FeatureStore
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store
from tests.support.unit_features import read_tree


@pytest.fixture
def train(tmp_path) -> str:
    return write_rows(tmp_path / "train.jsonl", make_rows())


def test_the_same_rows_in_other_files_and_order_make_the_same_store(tmp_path):
    rows = make_rows()
    one = make_plan(tmp_path, write_rows(tmp_path / "a.jsonl", rows), likelihood=True)
    random.Random(0).shuffle(rows)
    files = [
        write_rows(tmp_path / "b.jsonl", rows[:7]),
        write_rows(tmp_path / "c.jsonl", rows[7:]),
    ]
    other = make_plan(tmp_path, files, likelihood=True)
    assert len(one.units) > 2
    assert (other.units, other.fingerprint) == (one.units, one.fingerprint)
    assert other.estimated_tokens == one.estimated_tokens
    whole = read_tree(write_store(one))
    other.job.store_dir.rename(tmp_path / "first")
    assert read_tree(write_store(other)) == whole


def test_units_are_whole_prompts_that_cover_every_row(tmp_path, train):
    plan = make_plan(tmp_path, train)
    keys = plan.index.table["prompt_key"].to_pylist()
    starts = [n for n in range(len(keys)) if n == 0 or keys[n] != keys[n - 1]]
    assert group_starts(plan.index).tolist() == [*starts, len(keys)]
    covered = [row for start, stop in plan.units for row in range(start, stop)]
    assert covered == list(range(len(plan.index)))
    assert {start for start, _ in plan.units} <= set(starts)
    assert len(make_plan(tmp_path, train, unit_tokens=1).units) == 6
    assert len(make_plan(tmp_path, train, unit_tokens=10**6).units) == 1


def test_one_row_is_one_unit(tmp_path):
    plan = make_plan(tmp_path, write_rows(tmp_path / "a.jsonl", make_rows(1, 2)[:1]))
    assert plan.units == ((0, 1),)
    assert group_starts(plan.index).tolist() == [0, 1]


def test_tokens_are_estimated_with_prompts_and_repeats_once(tmp_path):
    rows = [
        {"instruction": "a" * 30, "output": "b" * 12, "task_id": "1"},
        {"instruction": "a" * 30, "output": "b" * 12, "task_id": "2"},
        {"instruction": "a" * 30, "output": "c" * 18, "task_id": "3"},
        {"instruction": "d" * 60, "output": "c" * 18, "task_id": "4"},
    ]
    plan = make_plan(tmp_path, write_rows(tmp_path / "a.jsonl", rows))
    chars = 30 + 12 + 18 + 60 + 18 + 2 * len(TEMPLATE)
    assert plan.estimated_tokens == chars // CHARS_PER_TOKEN


def test_the_estimate_leaves_out_what_is_truncated(tmp_path):
    rows = [
        {"instruction": "a", "output": "b" * 10**6, "task_id": "1"},
        {"instruction": "a", "output": "c" * 30, "task_id": "2"},
        {"instruction": "d" * 10**6, "output": "e" * 10**6, "task_id": "3"},
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    cut = {"max_length": 400, "max_prompt_length": 300, "train": path}
    plan = make_plan(tmp_path, path, dataset=cut)
    assert plan.estimated_tokens == (400 * CHARS_PER_TOKEN + 30) // CHARS_PER_TOKEN + 400
    longer = {"max_length": 10**6, "train": path}
    budget = {"token_budget": 10**6}
    assert make_plan(tmp_path, path, dataset=longer, **budget).units == plan.units


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (1,)},
        {"unit_tokens": 301},
        {"limit_problems": 5},
        {"dataset": {"max_length": 100}},
        {"backbone": {"dtype": "bfloat16"}},
    ],
)
def test_another_job_has_another_fingerprint(tmp_path, train, changes):
    assert make_plan(tmp_path, train, **changes).fingerprint != (
        make_plan(tmp_path, train).fingerprint
    )


@pytest.mark.parametrize("field", ["output", "is_correct", "task_id", "problem_id", "metadata"])
def test_another_row_has_another_fingerprint_but_not_another_recipe(tmp_path, train, field):
    rows = make_rows()
    rows[3][field] = {"is_correct": False, "metadata": {}}.get(field, "other")
    one = make_plan(tmp_path, train)
    other = make_plan(tmp_path, write_rows(tmp_path / "other.jsonl", rows))
    assert one.fingerprint != other.fingerprint
    assert one.recipe.fingerprint == other.recipe.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"token_budget": 4096, "forward": "padded", "workers": 2},
        {"runtime": {"seed": 7}},
        {"limit_problems": 6},
        {"limit_problems": 99},
        {"dataset": {"name": "other"}},
    ],
)
def test_how_the_job_is_run_leaves_fingerprint_and_units(tmp_path, train, changes):
    one, other = make_plan(tmp_path, train), make_plan(tmp_path, train, **changes)
    assert (other.fingerprint, other.units) == (one.fingerprint, one.units)


def test_a_limit_keeps_whole_problems_and_says_what_is_left_out(tmp_path, train):
    plan = make_plan(tmp_path, train, limit_problems=2)
    problems = plan.index.table["problem_id"].to_pylist()
    assert (len(problems), len(set(problems))) == (10, 2)
    lines = plan.describe()
    assert (lines["samples read"], lines["not selected"], lines["to featurize"]) == (30, 20, 10)
    assert (lines["problems"], lines["units of work"]) == (2, len(plan.units))


def test_the_plan_says_what_it_will_store(tmp_path, train):
    plan = make_plan(tmp_path, train, layers=(1, -1), poolings=("mean", "last"), likelihood=True)
    lines = plan.describe()
    assert lines["tensors"] == "mean.1, last.1, mean.2, last.2 and likelihood"
    assert lines["backbone"] == "tiny, float32, 2 of 2 layers"
    assert plan.bytes_per_row == 4 * 8 * 2  # tensors, width, bytes of bfloat16
    assert lines["store folder"] == str(tmp_path / "store")
    assert make_plan(tmp_path, train, layers=(1,)).describe()["backbone"].endswith("1 of 2 layers")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert plan.memory_bytes >= 2 * size


def test_only_a_finished_store_of_the_same_fingerprint_leaves_nothing_to_do(tmp_path, train):
    plan = make_plan(tmp_path, train)
    assert plan.finished is None
    write_store(plan)
    finished = make_plan(tmp_path, train).finished
    assert finished is not None
    assert finished.fingerprint == plan.fingerprint
    assert len(finished.units) == len(plan.units)
    assert make_plan(tmp_path, train, layers=(1,)).finished is None
    (tmp_path / "store" / "manifest.json").unlink()
    assert make_plan(tmp_path, train).finished is None


def test_a_store_of_another_job_is_not_written_into(tmp_path, train):
    write_store(make_plan(tmp_path, train))
    before = read_tree(tmp_path / "store")
    for changes, named in [
        ({"layers": (1,)}, "layers;"),
        ({"poolings": ("last",), "dataset": {"max_length": 100}}, "max_length, max_prompt_length,"),
        ({"unit_tokens": 301}, "featurize.unit_tokens;"),
        ({"limit_problems": 1}, "selection of problems"),
    ]:
        with pytest.raises(FeatureStoreError, match=named):
            write_store(make_plan(tmp_path, train, **changes))
    assert read_tree(tmp_path / "store") == before


def test_a_split_without_a_file_is_refused(tmp_path, train):
    with pytest.raises(ValueError, match=r"dataset\.validation"):
        make_plan(tmp_path, train, split="valid")


def test_a_backbone_that_is_not_there_is_refused(tmp_path, train):
    with pytest.raises(ValueError, match=r"models\.policy\.path: .*none\.gguf"):
        make_plan(tmp_path, train, backbone={"path": str(tmp_path / "none.gguf")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"models\.policy\.path: .*/empty"):
        make_plan(tmp_path, train, backbone={"path": str(tmp_path / "empty")})


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path, train):
    folder = make_plan(tmp_path, train).source.folder
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="the tokenizer cannot be read") as caught:
        make_plan(tmp_path, train, backbone={"path": str(folder)})
    assert str(folder) in str(caught.value)


def test_authors_are_a_column_of_the_store_if_the_dataset_has_any(tmp_path):
    rows = make_rows(num_problems=2)
    (tmp_path / "a").mkdir()
    plain = write_store(make_plan(tmp_path / "a", write_rows(tmp_path / "a.jsonl", rows)))
    assert "author" not in FeatureStore.open(plain).samples.column_names
    (tmp_path / "b").mkdir()
    for row in rows[5:]:
        row["metadata"]["model"] = "gpt"
    path = write_rows(tmp_path / "b.jsonl", rows)
    plan = make_plan(tmp_path / "b", path, unit_tokens=1)
    store = FeatureStore.open(write_store(plan))
    assert len(plan.units) == 2  # of which one has no author
    authors = dict(
        zip(store.samples["task_id"].to_pylist(), store.samples["author"].to_pylist(), strict=True)
    )
    assert authors == {row["task_id"]: row["metadata"].get("model") for row in rows}
