"""Rotary frequencies that depend on the longest sequence: a row does not depend on its company."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from featurize.model.agreement import choose_forward
from featurize.model.decoder import ANY_LENGTH, LengthRule, length_rule, split_by_length
from featurize.model.engine import Engine
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup
from tests.support.families import LAYERS, make_family, to_backbone
from tests.support.plain_features import count_rows, make_groups

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
