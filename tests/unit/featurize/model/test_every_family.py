"""Every family of transformers is packed, padded or refused, and never computes a wrong row."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from featurize.errors import CriticError
from featurize.model.agreement import Choice, choose_forward
from featurize.model.engine import Engine
from featurize.model.forward import FeatureSpec
from featurize.model.limits import check_architecture
from featurize.model.packing import PromptGroup
from featurize.model.source import read_backbone_config
from featurize.settings import BackboneSettings
from tests.support.families import (
    FAMILY_NAMES,
    LAYERS,
    CannotBuild,
    make_family,
    source_of,
    tiny_config,
    to_backbone,
)
from tests.support.plain_features import count_rows, make_groups

SPEC = FeatureSpec(layers=(2, LAYERS), poolings=("mean", "last"), likelihood=False)
ONE_SAMPLE = make_groups([(3, (2,))], seed=1)  # shorter than every window and chunk
ROWS = make_groups([(5, (1, 12, 3)), (21, (17, 8, 1, 2)), (9, (30,)), (1, (4, 4))])
TOLERANCE = 1e-4

FIRST_IS_AFTER_ONE_BLOCK = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
"""Their `hidden_states` begin after the first block, and not before it."""


DOCS = Path(__file__).parents[4] / "docs/models.md"


def documented_paths() -> dict[str, str]:
    """The path of every family in the table of docs/models.md."""
    rows = [line.split("|")[1:4] for line in DOCS.read_text().splitlines() if "| `" in line]
    return {name: path.strip() for path, _, names in rows for name in re.findall("`(.+?)`", names)}


PATHS = documented_paths()
IS_DOCUMENTED = transformers.__version__.startswith("5.24.")


def compute(model: PreTrainedModel) -> tuple[Choice, dict[str, torch.Tensor]]:
    """Choose the forward on one short sample, then compute rows of all lengths in batches."""
    backbone = to_backbone(model)
    choice = choose_forward(backbone, SPEC, ONE_SAMPLE, torch.float32)
    found = Engine(backbone, SPEC, choice.forward, 60).run(ROWS, count_rows(ROWS)).tensors
    backbone.decoder.set_attn_implementation(backbone.plain_attention)
    return choice, found


@torch.inference_mode()
def alone(model: PreTrainedModel, prompt: Any, output: Any, shift: int) -> dict[str, torch.Tensor]:
    """The features of one sequence from the plain forward of transformers."""
    ids = torch.tensor([prompt + output])
    found: Any = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    states = found.hidden_states if hasattr(found, "hidden_states") else found.decoder_hidden_states
    layers = {2: states[2 - shift][0, len(prompt) :], LAYERS: states[-1][0, len(prompt) :]}
    return {
        f"{pooling}.{layer}": hidden.mean(0) if pooling == "mean" else hidden[-1]
        for layer, hidden in layers.items()
        for pooling in SPEC.poolings
    }


def largest_error(
    model: PreTrainedModel, found: dict[str, torch.Tensor], groups: list[PromptGroup], shift: int
) -> float:
    errors = []
    for group in groups:
        for row, output in zip(group.rows, group.outputs, strict=True):
            for name, expected in alone(model, group.prompt, output, shift).items():
                errors.append(float((found[name][row] - expected).norm() / expected.norm()))
    return max(errors)


def is_encoder_decoder(name: str) -> bool:
    return bool(transformers.AutoConfig.for_model(name).is_encoder_decoder)


@pytest.mark.skipif(not IS_DOCUMENTED, reason="the table is of another version of transformers")
def test_every_family_is_in_the_table_of_the_docs() -> None:
    assert sorted(set(FAMILY_NAMES) - set(PATHS)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_family_is_packed_or_padded_with_the_plain_rows_or_refused(name: str) -> None:
    try:
        model = make_family(name)
    except CannotBuild as error:
        pytest.skip(str(error)[:100])
    documented = PATHS.get(name, "")
    try:
        choice, found = compute(model)
    except CriticError as error:
        assert "another model" in str(error) or "download" in str(error)  # noqa: PT017
        assert documented == "refused" or not IS_DOCUMENTED
        return
    if documented == "refused" and is_encoder_decoder(name):
        return  # it is refused as a whole; its decoder alone may run
    assert documented.partition(",")[0] == choice.forward or not IS_DOCUMENTED
    shift = int(name in FIRST_IS_AFTER_ONE_BLOCK)
    assert largest_error(model, found, ROWS, shift) <= TOLERANCE, choice


KNOWN_WHEN_LOADED = {"mllama", "xlm", "xlnet"}
"""Families whose config does not show why they are refused."""


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if PATHS.get(name) == "refused"])
def test_a_refused_family_is_refused_by_the_plan(name: str) -> None:
    try:
        config = whole_config(name)
    except Exception as error:  # each family has its own way to refuse
        if IS_DOCUMENTED:
            raise
        pytest.skip(f"this version of transformers makes no such config: {str(error)[:60]}")
    if name in KNOWN_WHEN_LOADED:
        plan_with(config)
        return
    with pytest.raises(CriticError, match="another model"):
        plan_with(config)


def plan_with(config: PreTrainedConfig) -> None:
    """Check a config as `--plan-only` does."""
    model: Any = SimpleNamespace(config=config)
    settings = BackboneSettings(name="made", path="nowhere")
    check_architecture(read_backbone_config(source_of(model), settings), settings)


def whole_config(name: str) -> PreTrainedConfig:
    config: PreTrainedConfig
    if name == "gemma4_assistant":  # its text tower cannot be left to transformers
        sizes = {"hidden_size_per_layer_input": None, "num_kv_shared_layers": LAYERS}
        config = tiny_config("gemma4_text", sizes)
    elif name.startswith("musicgen"):
        config = transformers.AutoConfig.for_model(name)
    else:
        config = tiny_config(name)
    return config


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba", "linear_attention"),
        ("mamba2", "linear_attention"),
        ("falcon_mamba", "linear_attention"),
        ("rwkv", "RwkvBlock"),
        ("recurrent_gemma", "linear_attention|RecurrentGemma"),  # as transformers 5.17 has it
        ("qwen3_next", "linear_attention"),
        ("falcon_h1", "hybrid"),
        ("lfm2", "conv"),
        ("bamba", "linear_attention"),
        ("jamba", "linear_attention"),
        ("nemotron_h", "linear_attention"),
        ("granitemoehybrid", "linear_attention"),
        ("bloom", "ALiBi"),
        ("mpt", "ALiBi"),
        ("llama4_text", "chunked_attention"),
        ("deepseek_v32", "indexed_attention|deepseek_sparse_attention"),
        ("phimoe", "sliding window in a mask"),
    ],
)
def test_what_shares_state_between_sequences_is_padded_for_a_named_reason(
    name: str, reason: str
) -> None:
    choice, _ = compute(make_family(name))
    assert choice.forward == "padded"
    assert any(one in choice.reason for one in reason.split("|"))


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "qwen3_moe", "gemma3_text", "olmo2"])
def test_plain_attention_is_packed_after_one_short_sample(name: str) -> None:
    assert compute(make_family(name))[0].forward == "packed"


def test_falcon_with_alibi_is_padded_and_its_rows_are_those_of_the_plain_forward() -> None:
    model = make_family("falcon", alibi=True)
    choice, found = compute(model)
    assert choice.forward == "padded"
    assert "ALiBi" in choice.reason
    assert largest_error(model, found, ROWS, 0) <= TOLERANCE


def test_most_families_can_be_built() -> None:
    names = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox")
    for name in names:
        make_family(name)


def test_packed_by_request_is_refused_for_a_model_that_cannot_share() -> None:
    engine = Engine(to_backbone(make_family("bloom")), SPEC, "packed", 60)
    with pytest.raises(CriticError, match=r"featurize\.forward .*ALiBi.* auto or padded"):
        engine.run(ROWS, count_rows(ROWS))


@pytest.mark.parametrize("name", ["dory", "gemma3n_text"])
def test_a_model_without_one_hidden_state_per_layer_is_refused(name: str) -> None:
    if name not in FAMILY_NAMES:
        pytest.skip("not in this version of transformers")
    with pytest.raises(CriticError, match="hidden states"):
        to_backbone(make_family(name))
