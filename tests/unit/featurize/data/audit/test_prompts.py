"""Samples shown token by token."""

import re
from pathlib import Path
from typing import Any

import pytest

from featurize.data.audit.tokens import ShownSample, show_prompts
from featurize.data.index import DatasetIndex
from featurize.errors import DataError
from tests.support.row_files import write_rows
from tests.support.tiny_jobs import make_encoder, make_rows


def show(folder: Path, number: int, rows: Any = None, **prompt: Any) -> list[ShownSample]:
    path = write_rows(folder / "rows.jsonl", rows or make_rows())
    index = DatasetIndex.build(str(path), folder / "cache")
    encoder = make_encoder(**prompt)
    return list(show_prompts(index, encoder, ("mean", "last"), number))


def test_one_sample_of_each_prompt_is_shown_whole(tmp_path: Path) -> None:
    shown = show(tmp_path, 3)
    assert len({sample.title for sample in shown}) == 3
    for sample in shown:
        prompt, output = sample.parts
        text = "".join(token.text for token in prompt.tokens)
        assert text.endswith("### Response:\n")
        assert "".join(token.text for token in output.tokens).startswith("print(")
        assert re.search("mean .*last ", output.note)


def test_what_follows_an_output_is_shown_with_what_is_pooled_of_it(tmp_path: Path) -> None:
    (shown,) = show(tmp_path, 1, end="eos", question="Right?", answers=("Y", "N"))
    notes = {part.name: part.note for part in shown.parts}
    assert notes["output"] == "mean over all its tokens"
    assert notes["end"] == "last is its last token"
    assert notes["question"] == "its last token is pooled"
    (end,) = shown.parts[2].tokens
    assert (end.text, end.is_control) == ("</s>", True)


def test_a_control_token_that_a_text_spells_is_not_one(tmp_path: Path) -> None:
    (shown,) = show(tmp_path, 1, [{"instruction": "a", "output": "x </s>"}])
    assert "".join(token.text for token in shown.parts[1].tokens) == "x </s>"
    assert not any(token.is_control for part in shown.parts for token in part.tokens)


def test_truncation_is_noted(tmp_path: Path) -> None:
    (shown,) = show(tmp_path, 1, [{"instruction": "a " * 500, "output": "x\n" * 500}])
    assert [part.note.endswith("; truncated") for part in shown.parts] == [True, True]


def test_no_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="number of prompts is 0; it must be at least 1"):
        show(tmp_path, 0)
