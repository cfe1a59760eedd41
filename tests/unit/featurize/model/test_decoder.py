"""Decoders inside multimodal models, and rotary frequencies that depend on the longest sequence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from featurize.model.agreement import choose_forward
from featurize.model.decoder import ANY_LENGTH, LengthRule, length_rule, split_by_length
from featurize.model.engine import Engine
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup
from tests.support.families import LAYERS, make_family, to_backbone
from tests.support.plain_features import count_rows, load_tiny, make_groups
from tests.support.tiny_models import draw_weights, make_tokenizer

TEXTS = make_groups([(5, (1, 12, 3)), (21, (17, 8)), (9, (30,))])
TEXT: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64,
    "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
KINDS = ["sliding_attention", "full_attention"] * 2
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ({"model_type": "gemma3_text", "sliding_window": 8, "layer_types": KINDS}, {}, {}),
    "mistral3": (
        {"model_type": "mistral"},
        {"model_type": "pixtral", "head_dim": 8},
        {"vision_feature_layer": -1},
    ),
    "qwen2_5_vl": (
        {"model_type": "qwen2_5_vl_text", "rope_parameters": ROPE},
        {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [0]},
        {},
    ),
}


def write_multimodal(folder: Path, name: str) -> PreTrainedModel:
    text, vision, others = TOWERS[name]
    config = type(AutoConfig.for_model(name))(
        text_config=TEXT | text, vision_config=VISION | vision, **others
    )
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    draw_weights(model)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("likelihood", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_rows_are_those_of_the_whole_model(tmp_path: Path, name: str, likelihood: bool) -> None:
    model = write_multimodal(tmp_path / name, name)
    spec = FeatureSpec(layers=(2, LAYERS), poolings=("mean",), likelihood=likelihood)
    backbone = load_tiny(tmp_path / name, spec)
    choice = choose_forward(backbone, spec, TEXTS, torch.float32)
    assert choice.forward == "packed"
    found = Engine(backbone, spec, choice.forward, 60).run(TEXTS, count_rows(TEXTS)).tensors
    for group in TEXTS:
        for row, output in zip(group.rows, group.outputs, strict=True):
            ids = torch.tensor([group.prompt + output])
            with torch.no_grad():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states
            for layer in spec.layers:
                expected = states[layer][0, len(group.prompt) :].mean(0)
                torch.testing.assert_close(
                    found[f"mean.{layer}"][row], expected, rtol=1e-4, atol=1e-4
                )


SPEC = FeatureSpec(layers=(LAYERS,), poolings=("mean",), likelihood=False)
LIMIT = 64
# Below the limit, at it, just above, and far above; one prompt has outputs on both sides.
GROUPS = make_groups([(10, (5, 30, 54, 55, 90)), (20, (7, 44)), (70, (3, 9))])

LONGROPE: dict[str, Any] = {
    "max_position_embeddings": 512,
    "original_max_position_embeddings": LIMIT,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 3.0, 6.0, 9.0],
        "original_max_position_embeddings": LIMIT,
    },
    "sliding_window": None,
}
DYNAMIC: dict[str, Any] = {
    "max_position_embeddings": LIMIT,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
MODELS = [("phi3", LONGROPE), ("llama", DYNAMIC)]


@torch.inference_mode()
def expected(name: str, options: dict[str, Any], groups: list[PromptGroup]) -> torch.Tensor:
    """Each sequence alone on a model that has run nothing before: [rows, hidden]."""
    rows = []
    for group in groups:
        for output in group.outputs:
            model: Any = make_family(name, **options)
            for module in model.modules():
                if hasattr(module, "original_inv_freq"):
                    module.inv_freq = module.original_inv_freq.clone()
                    module.max_seq_len_cached = module.original_max_seq_len
            ids = torch.tensor([group.prompt + output])
            rows.append(
                model.base_model(input_ids=ids).last_hidden_state[0, -len(output) :].mean(0)
            )
    return torch.stack(rows)


@pytest.mark.parametrize("forward", ["packed", "padded"])
@pytest.mark.parametrize(("name", "options"), MODELS)
def test_rows_are_those_of_each_sequence_alone(
    name: str, options: dict[str, Any], forward: Any
) -> None:
    model: PreTrainedModel = make_family(name, **options)
    engine = Engine(to_backbone(model), SPEC, forward, 400)
    found = engine.run(GROUPS, count_rows(GROUPS)).tensors[f"mean.{LAYERS}"]
    torch.testing.assert_close(found, expected(name, options, GROUPS), rtol=1e-4, atol=1e-4)
    # A longer call in between leaves no trace.
    again = engine.run(GROUPS, count_rows(GROUPS)).tensors[f"mean.{LAYERS}"]
    assert torch.equal(found, again)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_such_a_model_may_be_packed(name: str, options: dict[str, Any]) -> None:
    backbone = to_backbone(make_family(name, **options))
    assert choose_forward(backbone, SPEC, GROUPS, torch.float32).forward == "packed"


def test_rules_are_read_from_the_rotary_modules() -> None:
    assert length_rule(make_family("phi3", **LONGROPE)) == LengthRule(switches=(LIMIT,))
    assert length_rule(make_family("llama", **DYNAMIC)) == LengthRule(grows=(LIMIT,))
    assert length_rule(make_family("llama")) == ANY_LENGTH


def test_groups_are_split_by_the_side_of_the_threshold() -> None:
    below, above = split_by_length(GROUPS, LengthRule(switches=(LIMIT,)))
    assert [group.rows for group in below] == [(0, 1, 2), (5, 6)]
    assert [group.rows for group in above] == [(3, 4), (7, 8)]
    parts = split_by_length(GROUPS, LengthRule(grows=(LIMIT,)))
    assert [[group.rows for group in part] for part in parts] == [
        [(0, 1, 2), (5, 6)],
        [(3,)],
        [(7,)],
        [(8,)],
        [(4,)],
    ]


def test_without_a_rule_groups_stay_as_they_are() -> None:
    assert split_by_length(GROUPS, ANY_LENGTH) == [list(GROUPS)]
