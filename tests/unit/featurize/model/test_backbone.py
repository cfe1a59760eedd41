import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from featurize.model.backbone import (
    Backbone,
    find_backbone,
    load_backbone,
    load_tokenizer,
    read_backbone_config,
    resolve_layers,
)
from featurize.settings import BackboneParams, BackboneSettings
from tests.support.plain_features import CPU
from tests.support.tiny_models import (
    HIDDEN_SIZE,
    NUM_LAYERS,
    VOCAB_SIZE,
    write_tiny_llama,
    write_tiny_model,
)

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama", adds_bos=True)


def load(
    path: Path | str,
    *,
    deepest_layer: int = NUM_LAYERS,
    with_lm_head: bool = False,
    dtype: torch.dtype = torch.float32,
    is_plain: bool = False,
    **settings: Any,
) -> Backbone:
    """Finds and loads a backbone and its tokenizer, as the job does."""
    policy = BackboneSettings(name="tiny", path=str(path), **settings)
    source = find_backbone(policy, Path("nowhere"), dtype)
    load_tokenizer(source, policy)
    return load_backbone(
        source,
        policy,
        device=CPU,
        dtype=dtype,
        deepest_layer=deepest_layer,
        with_lm_head=with_lm_head,
        is_plain=is_plain,
    )


def error_of(action: Callable[[], object]) -> str:
    """The message of the ValueError, which has one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at all of it
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_found_by_its_path(llama: Path, tmp_path: Path) -> None:
    settings = BackboneSettings(name="tiny", path=str(llama))
    source = find_backbone(settings, tmp_path, torch.float32)
    assert source.folder == source.tokenizer_folder == llama
    assert not source.is_mtp
    config = read_backbone_config(source, settings)
    assert (config.num_hidden_layers, config.hidden_size) == (NUM_LAYERS, HIDDEN_SIZE)


def test_the_tokenizer_may_lie_elsewhere(llama: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(llama, bare)
    (bare / TOKENIZER).unlink()
    for place in (llama, llama / TOKENIZER):
        settings = BackboneSettings(name="tiny", path=str(bare), tokenizer_path=str(place))
        source = find_backbone(settings, tmp_path, torch.float32)
        assert source.tokenizer_folder == llama
        assert load_tokenizer(source, settings)("x + 1")["input_ids"][0] == 0


def test_digests_tell_weights_and_tokenizers_apart(tmp_path: Path) -> None:
    folders = [
        write_tiny_llama(tmp_path / "a"),
        write_tiny_llama(tmp_path / "same"),
        write_tiny_llama(tmp_path / "other", seed=1),
        write_tiny_llama(tmp_path / "bos", adds_bos=True),
    ]
    first, same, other, bos = (
        find_backbone(BackboneSettings(name="t", path=str(folder)), tmp_path, torch.float32)
        for folder in folders
    )
    assert first.digest == same.digest == bos.digest != other.digest
    assert first.tokenizer_digest == same.tokenizer_digest == other.tokenizer_digest
    assert first.tokenizer_digest != bos.tokenizer_digest


def test_the_whole_backbone_has_all_its_blocks(llama: Path) -> None:
    backbone = load(llama)
    assert len(backbone.blocks) == backbone.num_layers == NUM_LAYERS
    assert backbone.hidden_size == HIDDEN_SIZE
    assert backbone.lm_head is None
    assert not backbone.decoder.training
    assert not any(parameter.requires_grad for parameter in backbone.decoder.parameters())


@pytest.mark.parametrize("deepest_layer", range(NUM_LAYERS + 1))
def test_blocks_above_the_deepest_layer_are_dropped(llama: Path, deepest_layer: int) -> None:
    backbone = load(llama, deepest_layer=deepest_layer, is_plain=True)
    assert len(backbone.blocks) == max(1, deepest_layer)
    assert backbone.num_layers == NUM_LAYERS
    calls = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    backbone.decoder(input_ids=torch.tensor([[3, 4]]), use_cache=False)
    assert len(calls) == max(1, deepest_layer)
    assert "layers.2.mlp.up_proj.weight" not in dict(backbone.decoder.named_parameters()) or (
        deepest_layer == NUM_LAYERS
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_number_format_asked_for(llama: Path, dtype: torch.dtype) -> None:
    backbone = load(llama, dtype=dtype, with_lm_head=True)
    assert {parameter.dtype for parameter in backbone.decoder.parameters()} == {dtype}
    assert backbone.lm_head is not None
    hidden = torch.randn(5, HIDDEN_SIZE, dtype=dtype)
    assert backbone.logits(hidden).shape == (5, VOCAB_SIZE)
    assert backbone.logits(hidden).dtype == torch.float32


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "gpt_neox"])
def test_logits_are_scaled_as_the_model_scales_them(tmp_path: Path, family: str) -> None:
    folder = write_tiny_model(tmp_path / family, family)
    backbone = load(folder, with_lm_head=True)
    ids = torch.arange(2, 40)[None]
    hidden = backbone.decoder(input_ids=ids).last_hidden_state
    expected = AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits
    torch.testing.assert_close(backbone.logits(hidden), expected)


def test_logits_made_in_another_way_are_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "logits", lambda self, hidden: self.lm_head(hidden) * 1.1)
    message = error_of(lambda: load(llama, with_lm_head=True))
    assert "LlamaForCausalLM" in message
    assert "set featurize.likelihood to false" in message
    load(llama, with_lm_head=False)


def test_tied_weights_are_not_taken_for_missing_ones(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)
    backbone = load(folder, with_lm_head=True)
    assert backbone.lm_head is not None
    embeddings = backbone.decoder.get_input_embeddings()
    torch.testing.assert_close(backbone.lm_head.weight, embeddings.weight)


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "both", "gemma3", use_bidirectional_attention=True)
    for with_lm_head in (False, True):
        message = error_of(lambda: load(folder, with_lm_head=with_lm_head))  # noqa: B023
        assert "Gemma3TextModel: its tokens see those on their right" in message


@pytest.mark.parametrize(
    ("layers", "resolved"),
    [
        ("all", [0, 1, 2, 3]),
        ((-1,), [3]),
        ((0,), [0]),
        ((3, 0, 1), [0, 1, 3]),
        ((-4, -2), [0, 2]),
    ],
)
def test_layers_are_numbered_as_transformers_does(
    layers: tuple[int, ...] | str, resolved: list[int]
) -> None:
    assert resolve_layers(layers, NUM_LAYERS) == resolved


@pytest.mark.parametrize("layer", [4, -5, 100])
def test_a_layer_the_backbone_does_not_have_is_refused(layer: int) -> None:
    message = error_of(lambda: resolve_layers((1, layer), NUM_LAYERS))
    assert message.startswith(f"featurize.layers: {layer} is not one of")
    assert "0..3" in message


def test_a_layer_named_in_two_ways_is_refused() -> None:
    assert "names a layer twice" in error_of(lambda: resolve_layers((3, -1), NUM_LAYERS))


# models.policy.params


EXACT = BackboneParams(
    dim=HIDDEN_SIZE,
    n_layers=NUM_LAYERS,
    n_heads=4,
    n_kv_heads=2,
    n_future_tokens=1,
    intermediate_size=64,
    rope_theta=10000.0,
    vocab_size=VOCAB_SIZE,
)


@pytest.mark.parametrize("params", [None, BackboneParams(), EXACT])
def test_params_that_say_what_the_model_is_are_accepted(
    llama: Path, params: BackboneParams | None
) -> None:
    load(llama, params=params)


def test_params_are_compared_with_the_whole_model_not_with_the_cut_one(llama: Path) -> None:
    load(llama, params=EXACT, deepest_layer=1)


@pytest.mark.parametrize(
    ("key", "wrong", "found"),
    [
        ("dim", 64, 32),
        ("n_layers", 32, 3),
        ("n_future_tokens", 4, 1),
        ("n_heads", 8, 4),
        ("n_kv_heads", 4, 2),
        ("intermediate_size", 65, 64),
        ("rope_theta", 500000.0, 10000.0),
        ("vocab_size", 32000, 320),
    ],
)
def test_params_that_contradict_the_model_are_refused(
    llama: Path, key: str, wrong: Any, found: float
) -> None:
    message = error_of(lambda: load(llama, params=BackboneParams(**{key: wrong})))
    assert f"models.policy.params.{key} is {wrong}" in message
    assert f"has {found};" in message
    assert str(llama) in message
