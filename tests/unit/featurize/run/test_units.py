"""A unit of work: texts to ids, groups and counts, and back to one table row a sample."""

import numpy as np
import pytest
import torch

from featurize.data.index import DatasetIndex
from featurize.data.prompt import render_prompt
from featurize.errors import DataError
from featurize.model.forward import Features, FeatureSpec
from featurize.run.recipe import Recipe
from featurize.run.units import (
    UnitWork,
    join_units,
    read_unit,
    split_features,
    to_unit_features,
)
from featurize.store.samples import LIKELIHOOD_COLUMNS, SAMPLE_SCHEMA
from tests.support.tiny_jobs import make_encoder, make_rows, write_rows


def make_work(tmp_path, rows, **settings) -> UnitWork:
    index = DatasetIndex.build(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "cache")
    return read_unit(3, np.arange(len(index)), index, make_encoder(**settings))


def make_recipe(storage_dtype: torch.dtype = torch.float32) -> Recipe:
    return Recipe(
        spec=FeatureSpec(layers=(1,), poolings=("mean",), likelihood=True),
        num_layers=1,
        hidden_size=2,
        compute_dtype=torch.float32,
        storage_dtype=storage_dtype,
        fields={},
    )


def make_features(num_rows: int, *, likelihood: bool = False) -> Features:
    return Features(
        tensors={"mean.1": torch.arange(2.0 * num_rows).reshape(-1, 2) + 0.1},
        likelihood=torch.arange(4.0 * num_rows).reshape(-1, 4) if likelihood else None,
    )


def test_every_sample_finds_its_own_ids_in_its_row(tmp_path):
    rows = make_rows()
    work = make_work(tmp_path, rows, max_length=2000, max_prompt_length=1000)
    texts = {row["task_id"]: row for row in rows}
    by_row = {
        row: (group.prompt, output)
        for group in work.grouping.groups
        for output, row in zip(group.outputs, group.rows, strict=True)
    }
    decode = make_encoder().tokenizer.decode
    assert (work.number, len(work.samples)) == (3, len(rows))
    for sample, row in zip(work.samples, work.grouping.row_of_sample.tolist(), strict=True):
        prompt, output = by_row[row]
        text = texts[sample.task_id]
        assert decode(prompt) == render_prompt(text["instruction"], text["input"])
        assert decode(output) == text["output"]


def test_the_counts_account_for_every_sample(tmp_path):
    rows = make_rows(num_problems=2, num_outputs=5)  # the fifth output is the first again
    work = make_work(tmp_path, rows, max_length=2000, max_prompt_length=1000)
    prompts = [len(prompt.ids) for prompt in work.prompts]
    outputs = [len(output.ids) for output in work.outputs]
    again = {sample.task_id: place for place, sample in enumerate(work.samples)}
    repeated = [again["p0-4"], again["p1-4"]]
    assert work.counts == {
        "samples": 10,
        "feature_rows": 8,
        "duplicates": 2,
        "prompts_truncated": 0,
        "outputs_truncated": 0,
        "prompts": 2,
        "unique_tokens": sum(set(prompts)) + sum(outputs) - sum(outputs[n] for n in repeated),
        "all_tokens": sum(prompts) + sum(outputs),
        "both_labels": 4,
    }


def test_what_is_cut_is_counted_and_said_of_each_sample(tmp_path):
    rows = [
        {"instruction": "short", "output": "x" * 50, "task_id": "a"},
        {"instruction": "short", "output": "y", "task_id": "b"},
        {"instruction": "long " * 200, "output": "y", "task_id": "c"},
        {"instruction": "long " * 200, "output": "y" * 200, "task_id": "d"},
    ]
    work = make_work(tmp_path, rows, max_length=140, max_prompt_length=110)
    table = to_unit_features(work, make_features(4), make_recipe()).samples.to_pydict()
    cut = dict(
        zip(
            table["task_id"],
            zip(table["prompt_truncated"], table["output_truncated"], strict=True),
            strict=True,
        )
    )
    is_short = table["prompt_tokens"][table["task_id"].index("a")] <= 90
    assert is_short
    assert cut == {"a": (False, False), "b": (False, False), "c": (True, False), "d": (True, True)}
    assert (work.counts["prompts_truncated"], work.counts["outputs_truncated"]) == (2, 1)
    assert table["output_tokens"][table["task_id"].index("d")] == 30
    assert min(table["output_tokens"]) >= 1


def test_statements_that_are_cut_to_the_same_ids_share_rows(tmp_path):
    rows = [
        {"instruction": "long " * 200 + end, "output": "y", "task_id": end} for end in ("a", "b")
    ]
    work = make_work(tmp_path, rows)
    assert (work.counts["prompts"], work.counts["feature_rows"], work.counts["duplicates"]) == (
        1,
        1,
        1,
    )
    assert work.grouping.row_of_sample.tolist() == [0, 0]


def test_the_table_has_a_row_for_each_sample_and_unknowns_stay_unknown(tmp_path):
    rows = [
        {"instruction": "a", "output": "b", "is_correct": True, "task_id": "t", "problem_id": "p"},
        {"instruction": "a", "output": "b", "task_id": "u", "metadata": {"language": "c"}},
    ]
    work = make_work(tmp_path, rows)
    unit = to_unit_features(work, make_features(1), make_recipe())
    assert unit.samples.schema.equals(SAMPLE_SCHEMA)
    first, second = sorted(unit.samples.to_pylist(), key=lambda row: row["task_id"])
    assert (first["problem_id"], first["is_correct"], first["language"]) == ("p", True, None)
    assert (second["is_correct"], second["language"], second["source"]) == (None, "c", None)
    assert first["feature_row"] == second["feature_row"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_take_their_storage_format(tmp_path, dtype):
    work = make_work(tmp_path, make_rows(num_problems=1, num_outputs=3))
    features = make_features(2)
    unit = to_unit_features(work, features, make_recipe(dtype))
    assert torch.equal(unit.tensors["mean.1"], features.tensors["mean.1"].to(dtype))


def test_the_likelihood_of_a_row_goes_to_all_its_samples(tmp_path):
    work = make_work(tmp_path, make_rows(num_problems=1, num_outputs=4))
    features = make_features(work.grouping.num_rows, likelihood=True)
    samples = to_unit_features(work, features, make_recipe()).samples
    assert samples.column_names == [*SAMPLE_SCHEMA.names, *LIKELIHOOD_COLUMNS]
    for sample in samples.to_pylist():
        values = [sample[name] for name in LIKELIHOOD_COLUMNS]
        assert values == features.likelihood[sample["feature_row"]].tolist()
    assert work.counts["duplicates"] == 1


@pytest.mark.parametrize("likelihood", [False, True])
def test_units_that_run_together_are_taken_apart_again(tmp_path, likelihood):
    rows = make_rows(num_problems=4)
    index = DatasetIndex.build(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "cache")
    encoder = make_encoder(max_length=2000, max_prompt_length=1000)
    bounds = [(0, 5), (5, 15), (15, 20)]
    units = [
        read_unit(number, np.arange(start, stop), index, encoder)
        for number, (start, stop) in enumerate(bounds)
    ]
    groups, num_rows = join_units(units)
    assert sorted(row for group in groups for row in group.rows) == list(range(num_rows))
    features = make_features(num_rows, likelihood=likelihood)
    parts = split_features(features, units)
    joined = iter(groups)
    for unit, part in zip(units, parts, strict=True):
        assert (part.likelihood is None) == (features.likelihood is None)
        for group in unit.grouping.groups:
            shifted = next(joined)
            assert (shifted.prompt, shifted.outputs) == (group.prompt, group.outputs)
            own, all_rows = list(group.rows), list(shifted.rows)
            assert torch.equal(part.tensors["mean.1"][own], features.tensors["mean.1"][all_rows])
            if part.likelihood is not None and features.likelihood is not None:
                assert torch.equal(part.likelihood[own], features.likelihood[all_rows])


def test_outputs_that_are_stripped_or_tokenized_apart_are_counted(tmp_path):
    outputs = ["<think>a</think>b", "    return a", "c"]
    rows = [{"instruction": "a", "output": text} for text in outputs]
    work = make_work(tmp_path, rows, think="strip")
    assert (work.counts["thinking_stripped"], work.counts["outputs_apart"]) == (1, 1)
    names = {"thinking_stripped", "outputs_apart"}
    assert not names & make_work(tmp_path, rows[2:]).counts.keys()


def test_what_follows_an_output_is_computed_and_not_counted_as_output(tmp_path):
    rows = [{"instruction": "a", "output": text} for text in ("b", "cc")]
    own = make_work(tmp_path, rows)
    asked = make_work(tmp_path, rows, end="eos", question="R?", answers=("Y", "N"))
    suffix = asked.num_suffix
    assert suffix > 1
    assert [one.ids for one in asked.outputs] == [one.ids for one in own.outputs]
    assert asked.counts["all_tokens"] == own.counts["all_tokens"] + 2 * suffix
    assert asked.counts["unique_tokens"] == own.counts["unique_tokens"] + 2 * suffix
    (group,) = asked.grouping.groups
    assert (group.num_end, group.num_question) == (1, suffix - 1)


def test_a_text_that_cannot_be_encoded_is_refused_by_its_own_line(tmp_path):
    rows = [{"instruction": "a", "output": text} for text in ("b", "<think>c</think>")]
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*prompt\.think=keep"):
        make_work(tmp_path, rows, think="strip")
