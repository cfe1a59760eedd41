import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.data.audit.tokens import CountedTokens, audit_tokens
from featurize.data.formats import prompt_of
from featurize.data.index import DatasetIndex
from featurize.data.table import write_table
from featurize.data.token_counts import (
    TokenCounts,
    count_tokens,
    counts_of,
    counts_path,
    find_counts,
    unique_tokens,
    with_counts,
    write_counts,
)
from tests.support.tiny_jobs import make_encoder, make_plan, make_rows, write_rows, write_store
from tests.support.tiny_models import make_tokenizer

LIMITS = [(400, 300), (60, 45)]
"""Limits of a sample and of its prompt: nothing is truncated, then nearly everything."""


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return DatasetIndex.build(write_rows(tmp_path / "train.jsonl", make_rows()), tmp_path / "cache")


@pytest.mark.parametrize(("max_length", "prompt_limit"), LIMITS)
def test_counts_equal_those_of_the_encoder(
    index: DatasetIndex, max_length: int, prompt_limit: int
) -> None:
    counts = count_tokens(index, make_tokenizer()).cut(max_length, prompt_limit)
    encoder = make_encoder(max_length=max_length, max_prompt_length=prompt_limit)
    for row, sample in enumerate(index.read(np.arange(len(index)))):
        found = encoder.encode(prompt_of(sample), [sample.output])
        lengths = (len(found.prompt.ids), len(found.outputs[0].ids))
        assert (counts.prompts[row], counts.outputs[row]) == lengths


def test_the_number_of_rows_read_at_once_changes_nothing(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = count_tokens(index, make_tokenizer())
    monkeypatch.setattr("featurize.data.token_counts.ROWS_AT_ONCE", 4)
    steps: list[tuple[int, int]] = []
    pieces = count_tokens(index, make_tokenizer(), lambda *step: steps.append(step))
    np.testing.assert_array_equal(pieces.prompts, whole.prompts)
    np.testing.assert_array_equal(pieces.outputs, whole.outputs)
    assert steps[-1] == (len(index), len(index))


def test_counted_tokens_are_those_that_featurize_would_compute(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", make_rows())
    plan = make_plan(tmp_path, train)
    assert plan.counted_tokens is None
    path = counts_path(plan.job.cache_dir, plan.index, plan.source.tokenizer_digest)
    write_counts(path, count_tokens(plan.index, make_tokenizer()))
    counted = make_plan(tmp_path, train)
    # Counts must not change the units, or the store would get other shards.
    assert (counted.units, counted.fingerprint) == (plan.units, plan.fingerprint)
    assert "tokens, counted" in counted.describe()
    write_store(counted)
    cut = counts_of(counted.index.table)
    assert cut is not None
    limits = (counted.job.dataset.max_length, counted.job.dataset.prompt_limit)
    expected = _computed_tokens(counted.index)
    assert counted.estimated_tokens == unique_tokens(counted.index.table, cut.cut(*limits))
    assert counted.estimated_tokens == expected
    part = make_plan(tmp_path, train, limit_problems=2)
    assert part.counted_tokens is not None
    assert part.counted_tokens == _computed_tokens(part.index) < expected


def _computed_tokens(index: DatasetIndex) -> int:
    """Tokens of the distinct prompts, and of the distinct outputs of each."""
    encoder = make_encoder(max_length=2048, max_prompt_length=1536)
    prompts, outputs = set(), set()
    for sample in index.read(np.arange(len(index))):
        found = encoder.encode(prompt_of(sample), [sample.output])
        prompt, (output,) = found.prompt.ids, found.outputs
        prompts.add(prompt)
        outputs.add((prompt, output.ids))
    return sum(map(len, prompts)) + sum(len(ids) for _, ids in outputs)


def test_cached_counts_are_found_by_dataset_and_tokenizer(
    index: DatasetIndex, tmp_path: Path
) -> None:
    counts = count_tokens(index, make_tokenizer())
    write_counts(counts_path(tmp_path, index, "tokenizer"), counts)
    found = counts_of(with_counts(index, tmp_path, "tokenizer").table)
    assert found is not None
    np.testing.assert_array_equal(found.outputs, counts.outputs)
    assert counts_of(with_counts(index, tmp_path, "another").table) is None
    assert counts_of(with_counts(index.take_problems(2), tmp_path, "tokenizer").table) is None


def test_damaged_counts_are_ignored(
    index: DatasetIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "counts.arrow"
    path.write_bytes(b"ARROW1 and no more")
    with caplog.at_level(logging.WARNING):
        assert find_counts(path, index) is None
    assert "is damaged" in caplog.text
    write_counts(path, TokenCounts(prompts=np.ones(3, np.int32), outputs=np.ones(3, np.int32)))
    assert find_counts(path, index) is None  # of another number of rows
    write_table(path, pa.table({"prompts": np.ones(len(index), np.int32)}))
    assert find_counts(path, index) is None  # without the outputs


def test_an_audit_reports_what_truncation_removes(tmp_path: Path) -> None:
    rows = [
        {"instruction": name, "output": f"{name}{place}", "is_correct": place == 0}
        for name in ("a", "b")
        for place in range(3)
    ]
    index = DatasetIndex.build(write_rows(tmp_path / "a.jsonl", rows), tmp_path)
    is_a = np.array([s.instruction == "a" for s in index.read(np.arange(6))])
    is_correct = index.table["is_correct"].to_numpy()
    counts = TokenCounts(
        prompts=np.where(is_a, 10, 30).astype(np.int32),
        outputs=np.where(is_correct, 100, 8).astype(np.int32),
    )
    counted = CountedTokens(counts=counts, tokenizer="t", max_length=60, prompt_limit=20)
    audit = audit_tokens(index.table, counted)
    assert (audit.prompts.num_texts, audit.prompts.num_tokens) == (2, 40)
    assert (audit.prompts_cut.num_cut, audit.prompts_cut.num_tokens_lost) == (1, 10)
    assert audit.num_samples_with_cut_prompt == 3
    # The prompts leave 50 and 40 tokens to outputs of 100.
    assert (audit.outputs_cut.num_cut, audit.outputs_cut.num_tokens_lost) == (2, 110)
    assert audit.outputs_cut.num_losing_more_than == {
        "0": 2, "0.1": 2, "0.25": 2, "0.5": 1, "0.75": 0,
    }  # fmt: skip
    assert (audit.share_cut_of_correct, audit.share_cut_of_incorrect) == (1.0, 0.0)
    assert audit.unique_tokens == 10 + 20 + 50 + 40 + 4 * 8
    assert audit.all_tokens == 3 * 10 + 3 * 20 + 50 + 40 + 4 * 8
    assert audit.outputs.quantiles == {"0.5": 8, "0.9": 100, "0.99": 100, "1": 100}
    assert audit.outputs.histogram[16] == 4
