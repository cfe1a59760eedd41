"""Adapters: their features are those of peft's own model, and what cannot be merged is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from featurize.model.engine import Engine
from featurize.model.families import adapter as adapters
from featurize.model.forward import FeatureSpec
from tests.support.loaded_backbones import error_of, find, load
from tests.support.plain_features import count_rows, load_tiny, make_groups, plain_features
from tests.support.tiny_models import make_tokenizer, write_tiny_llama, write_tiny_model

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="needs the library peft"
)
SPEC = FeatureSpec(layers=(1, 3), poolings=("mean", "last"), likelihood=True)
GROUPS = make_groups([(5, (3, 9)), (8, (2, 6, 4))])


def write_adapter(base: Path, folder: Path, kind: str = "LoraConfig", **options: Any) -> Path:
    """Save a random adapter of a model, as a trainer does."""
    import peft

    config = getattr(peft, kind)(task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(str(folder))
    return folder


def edit(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def digest_of(path: Path) -> str:
    return find(path).digest


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "base")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """An adapter of the base model."""
    return write_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"target_modules": ["q_proj", "down_proj"]}),
    "lora_of_all_layers": ("LoraConfig", {"target_modules": "all-linear", "use_rslora": True}),
    "dora": ("LoraConfig", {"target_modules": ["v_proj"], "use_dora": True}),
    "whole_modules": (
        "LoraConfig",
        {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "lora_of_some_layers": (
        "LoraConfig",
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    ),
    "ia3": (
        "IA3Config",
        {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "loha": ("LoHaConfig", {"target_modules": ["q_proj"]}),
}


@needs_peft
@pytest.mark.parametrize("name", ADAPTERS)
def test_features_are_those_of_pefts_own_model(name: str, base: Path, tmp_path: Path) -> None:
    import peft

    kind, options = ADAPTERS[name]
    folder = write_adapter(base, tmp_path / "adapter", kind, **options)
    engine = Engine(load_tiny(folder, SPEC), SPEC, "packed", token_budget=64)
    found = engine.run(GROUPS, count_rows(GROUPS))
    alone = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    without = plain_features(alone, GROUPS, SPEC)
    own = peft.PeftModel.from_pretrained(alone, str(folder)).eval()
    expected = plain_features(own.get_base_model(), GROUPS, SPEC)
    for column, rows in expected.tensors.items():
        torch.testing.assert_close(found.tensors[column], rows, atol=2e-4, rtol=2e-4)
    assert found.likelihood is not None
    torch.testing.assert_close(found.likelihood, expected.likelihood, atol=2e-4, rtol=2e-4)
    assert (expected.tensors["mean.3"] - without.tensors["mean.3"]).abs().max() > 1e-2


@needs_peft
def test_features_without_likelihood_have_the_adapter(folder: Path, base: Path) -> None:
    q_proj = "layers.0.self_attn.q_proj.weight"
    merged, plain = (
        load(path, is_plain=True).decoder.state_dict()[q_proj] for path in (folder, base)
    )
    assert (merged - plain).abs().max() > 1e-3


@needs_peft
def test_random_weights_are_those_of_the_base_model(folder: Path, base: Path) -> None:
    drawn, plain = (load(path, weights="random").decoder.state_dict() for path in (folder, base))
    assert all(torch.equal(drawn[name], plain[name]) for name in plain)


@needs_peft
def test_weights_and_config_of_the_adapter_enter_the_digest(folder: Path, base: Path) -> None:
    first = digest_of(folder)
    edit(folder, lora_alpha=99)
    second = digest_of(folder)
    edit_weights(folder, lambda weights: next(iter(weights.values())).add_(1))
    assert len({digest_of(base), first, second, digest_of(folder)}) == 4


@needs_peft
def test_a_moved_base_model_keeps_the_digest(folder: Path, base: Path, tmp_path: Path) -> None:
    before = digest_of(folder)
    base.rename(tmp_path / "moved")
    message = error_of(lambda: digest_of(folder))
    assert f"adapter_config.json: base_model_name_or_path: models.policy.path: '{base}'" in message
    edit(folder, base_model_name_or_path=str(tmp_path / "moved"))
    assert digest_of(folder) == before
    edit(folder, base_model_name_or_path="../moved")
    assert digest_of(folder) == before


@needs_peft
def test_the_tokenizer_is_the_adapters_own_if_it_has_one(folder: Path, base: Path) -> None:
    assert find(folder).tokenizer_folder == base
    make_tokenizer().save_pretrained(folder)
    assert find(folder).tokenizer_folder == folder


@needs_peft
def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", "gpt_neox")
    edit(folder, base_model_name_or_path=str(other))
    message = error_of(lambda: load(folder))
    assert str(folder) in message
    assert str(other) in message


@needs_peft
def test_an_adapter_of_a_deeper_model_is_refused(folder: Path) -> None:
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"
    edit_weights(folder, lambda w: w.update({name.format(7): w[name.format(0)].clone()}))
    message = error_of(lambda: load(folder))
    assert "layers.7." in message
    assert "base_model_name_or_path" in message


@needs_peft
def test_missing_and_infinite_weights_of_an_adapter_are_refused(folder: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    edit_weights(folder, lambda weights: weights[name].fill_(float("inf")))
    assert "NaN" in error_of(lambda: load(folder))
    edit_weights(folder, lambda weights: weights.__delitem__(name))
    assert f"{name!r} is missing" in error_of(lambda: load(folder))


@needs_peft
def test_an_adapter_that_adds_tokens_is_refused(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(base, tmp_path / "p", "PromptTuningConfig", num_virtual_tokens=2)
    assert "cannot be merged" in error_of(lambda: load(folder))


@needs_peft
def test_an_adapter_of_an_adapter_and_quantization_are_refused(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    assert "quantization" in error_of(lambda: load(folder, quantization="4bit"))
    second = write_adapter(base, tmp_path / "second", target_modules=["q_proj"])
    edit(second, base_model_name_or_path=str(folder))
    assert "is an adapter itself" in error_of(lambda: load(second))


def make_folder(folder: Path, base: object, *files: str) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).write_bytes(b"")
    return folder


def test_an_adapter_beside_full_weights_is_refused_by_name(base: Path) -> None:
    make_folder(base, "big/base", "adapter_model.safetensors")
    message = error_of(lambda: load(base))
    assert "model.safetensors" in message
    assert "adapter_config.json" in message
    assert "'big/base'" in message
    assert "remove" in message


def test_without_peft_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    folder = make_folder(tmp_path / "adapter", "big/base", "adapter_model.safetensors")
    message = error_of(lambda: load(folder))
    assert "'critic[peft]'" in message
    assert "'big/base'" in message


@pytest.mark.parametrize("base", [None, "", 3])
def test_an_adapter_without_a_base_model_is_refused(base: object, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "adapter", base, "adapter_model.safetensors")
    assert f"base_model_name_or_path is {base!r}" in error_of(lambda: load(folder))


def test_an_adapter_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "adapter", "big/base")
    assert "no adapter_model.safetensors" in error_of(lambda: load(folder))
