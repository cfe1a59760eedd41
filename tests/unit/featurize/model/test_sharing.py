"""How ranks are grouped around backbones, and which backbones can be cut."""

import re

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from featurize.model.sharing import (
    WHOLE,
    Sharing,
    check_tensor_parallel,
    cut_config,
    place,
    plan_sharing,
)
from featurize.settings import DistributedSettings, FsdpSettings
from tests.support.tiny_models import FAMILIES


def sharded(**fsdp: object) -> DistributedSettings:
    return DistributedSettings(shard_backbone=True, fsdp=FsdpSettings(**fsdp))


@pytest.mark.parametrize(
    ("settings", "world_size", "local_size", "expected"),
    [
        (DistributedSettings(), 8, 4, WHOLE),
        (DistributedSettings(tensor_parallel_size=4), 8, 8, Sharing(kind="tensor", size=4)),
        (DistributedSettings(shard_backbone=True), 8, 4, Sharing(kind="fsdp", size=8)),
        (DistributedSettings(shard_backbone=True), 1, 1, WHOLE),
        (sharded(group_size=2), 8, 4, Sharing(kind="fsdp", size=2)),
        (sharded(sharding_strategy="HYBRID_SHARD"), 8, 4, Sharing(kind="fsdp", size=4)),
        (sharded(sharding_strategy="NO_SHARD"), 8, 4, WHOLE),
        (sharded(cpu_offload=True), 2, 2, Sharing(kind="fsdp", size=2, offloads=True)),
        (
            sharded(sharding_strategy="SHARD_GRAD_OP"),
            2,
            2,
            Sharing(kind="fsdp", size=2, frees_layers=False),
        ),
        (
            sharded(sharding_strategy="HYBRID_SHARD_ZERO2"),
            4,
            2,
            Sharing(kind="fsdp", size=2, frees_layers=False),
        ),
    ],
)
def test_the_settings_say_how_ranks_hold_a_backbone(
    settings: DistributedSettings, world_size: int, local_size: int, expected: Sharing
) -> None:
    assert plan_sharing(settings, world_size, local_size) == expected


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (DistributedSettings(tensor_parallel_size=4), "tensor_parallel_size"),
        (sharded(group_size=4), "fsdp"),
    ],
)
def test_ranks_that_make_no_whole_groups_are_refused(
    settings: DistributedSettings, key: str
) -> None:
    reason = f"6 processes do not form groups of 4, which distributed.{key} requires"
    with pytest.raises(ValueError, match=re.escape(reason)):
        plan_sharing(settings, 6, 6)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt_neox"])
def test_heads_that_divide_are_accepted(family: str) -> None:
    check_tensor_parallel(FAMILIES[family].to_config(), 2)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (3, "3 does not divide the backbone's 4 attention heads; set it to one of [2]"),
        (4, "4 does not divide the backbone's 2 key/value heads; set it to one of [2]"),
    ],
)
def test_heads_that_do_not_divide_are_refused(size: int, reason: str) -> None:
    config = FAMILIES["llama"].to_config()
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_tensor_parallel(config, size)


def test_heads_without_a_common_part_leave_sharding() -> None:
    config = LlamaConfig(num_attention_heads=3, num_key_value_heads=1, hidden_size=24)
    with pytest.raises(ValueError, match="set it to 1 and distributed"):
        check_tensor_parallel(config, 2)


def test_a_model_without_a_plan_is_refused_unless_it_stays_whole() -> None:
    check_tensor_parallel(GPT2Config(), 1)
    with pytest.raises(ValueError, match="no tensor-parallel plan for a gpt2 model"):
        check_tensor_parallel(GPT2Config(), 2)


def test_a_cut_config_has_the_first_layers_only() -> None:
    config = FAMILIES["gemma3"].to_config()
    cut = cut_config(config, 2)
    assert cut.num_hidden_layers == 2
    assert cut.layer_types == ["sliding_attention", "full_attention"]
    assert config.num_hidden_layers == len(config.layer_types) == 3
    assert cut_config(config, 3).layer_types == config.layer_types


def test_a_weight_that_nobody_shares_is_placed_whole() -> None:
    weight = torch.arange(4.0)
    assert torch.equal(place(weight, torch.empty(4), torch.device("cpu")), weight)
