"""The text tower of a multimodal checkpoint gives the features of its text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from featurize.model.agreement import choose_forward
from featurize.model.engine import Engine
from featurize.model.forward import FeatureSpec
from tests.support.families import LAYERS
from tests.support.plain_features import count_rows, load_tiny, make_groups
from tests.support.tiny_models import draw_weights, make_tokenizer

GROUPS = make_groups([(5, (1, 12, 3)), (21, (17, 8)), (9, (30,))])
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
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
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
    text, vision, others = MODELS[name]
    config = type(AutoConfig.for_model(name))(
        text_config=TEXT | text, vision_config=VISION | vision, **others
    )
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    draw_weights(model)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("likelihood", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_the_whole_model(tmp_path: Path, name: str, likelihood: bool) -> None:
    model = write_multimodal(tmp_path / name, name)
    spec = FeatureSpec(layers=(2, LAYERS), poolings=("mean",), likelihood=likelihood)
    backbone = load_tiny(tmp_path / name, spec)
    choice = choose_forward(backbone, spec, GROUPS, torch.float32)
    assert choice.forward == "packed"
    found = Engine(backbone, spec, choice.forward, 60).run(GROUPS, count_rows(GROUPS)).tensors
    for group in GROUPS:
        for row, output in zip(group.rows, group.outputs, strict=True):
            ids = torch.tensor([group.prompt + output])
            with torch.no_grad():
                states = model(input_ids=ids, output_hidden_states=True).hidden_states
            for layer in spec.layers:
                expected = states[layer][0, len(group.prompt) :].mean(0)
                torch.testing.assert_close(
                    found[f"mean.{layer}"][row], expected, rtol=1e-4, atol=1e-4
                )
