"""A loaded backbone: its blocks, logits and number format, and the models that are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from featurize.model.backbone import Backbone, resolve_layers
from featurize.model.decoder import hidden_of
from featurize.model.families.hf import HuggingFace
from featurize.settings import BackboneParams
from tests.support.loaded_backbones import error_of, load
from tests.support.plain_features import load_plain
from tests.support.tiny_models import (
    FAMILIES,
    HIDDEN_SIZE,
    NUM_LAYERS,
    VOCAB_SIZE,
    write_tiny_llama,
    write_tiny_model,
)

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


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


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama", adds_bos=True)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_above_the_deepest_layer_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    folder = write_tiny_model(tmp_path / family, family)
    plain = load_plain(folder)
    made: list[int] = []
    from_pretrained = AutoModel.from_pretrained

    def spy(*args: Any, **options: Any) -> Any:
        loaded = from_pretrained(*args, **options)
        made.append(loaded[0].config.num_hidden_layers)
        return loaded

    monkeypatch.setattr(AutoModel, "from_pretrained", spy)
    backbone = load(folder, deepest_layer=2)
    assert made == [2]
    assert (len(backbone.blocks), backbone.num_layers) == (2, NUM_LAYERS)
    ids = torch.tensor([[5, 9, 7, 8, 6]])
    taken: list[torch.Tensor] = []
    backbone.blocks[1].register_forward_hook(lambda *call: taken.append(hidden_of(call[2])))
    with torch.no_grad():
        backbone.decoder(input_ids=ids, use_cache=False)
        expected = plain(input_ids=ids, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(taken[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_requested_number_format(llama: Path, dtype: torch.dtype) -> None:
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


def test_logits_that_are_not_the_models_own_are_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "logits", lambda self, hidden: self.lm_head(hidden) * 1.1)
    message = error_of(lambda: load(llama, with_lm_head=True))
    assert "LlamaForCausalLM" in message
    assert "set featurize.likelihood to false" in message
    load(llama, with_lm_head=False)


def test_tied_weights_do_not_count_as_missing(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)
    backbone = load(folder, with_lm_head=True)
    assert backbone.lm_head is not None
    embeddings = backbone.decoder.get_input_embeddings()
    torch.testing.assert_close(backbone.lm_head.weight, embeddings.weight)


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "both", "gemma3", use_bidirectional_attention=True)
    for with_lm_head in (False, True):
        message = error_of(lambda: load(folder, with_lm_head=with_lm_head))  # noqa: B023
        assert "Gemma3TextModel: its tokens attend to later tokens" in message


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


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [((1, 4), "4 is not a layer"), ((1, -5), "-5 is not a layer"), ((3, -1), "twice")],
)
def test_impossible_layers_are_refused(layers: tuple[int, ...], complaint: str) -> None:
    message = error_of(lambda: resolve_layers(layers, NUM_LAYERS))
    assert message.startswith("featurize.layers: ")
    assert complaint in message


@pytest.mark.parametrize("params", [None, BackboneParams(), EXACT])
def test_params_that_match_the_whole_model_are_accepted(
    llama: Path, params: BackboneParams | None
) -> None:
    load(llama, params=params, deepest_layer=1)


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


def test_a_model_without_a_list_of_blocks_is_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(torch.nn.ModuleList):
        def __len__(self) -> int:
            return 7

    def load_odd(*_args: Any) -> Any:
        model = AutoModel.from_pretrained(llama)
        model.layers = Odd(model.layers)
        return model

    monkeypatch.setattr(HuggingFace, "load_model", load_odd)
    assert "LlamaModel: no list of 3 blocks in it" in error_of(lambda: load(llama))
