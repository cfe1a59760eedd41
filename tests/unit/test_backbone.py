import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from featurize.model import backbone as backbone_module
from featurize.model.backbone import (
    Backbone,
    find_backbone,
    load_backbone,
    load_tokenizer,
    read_backbone_config,
    resolve_layers,
)
from featurize.settings import BackboneParams, BackboneSettings
from tests.plain_features import CPU
from tests.tiny_models import (
    HIDDEN_SIZE,
    NUM_LAYERS,
    VOCAB_SIZE,
    write_tiny_llama,
    write_tiny_model,
)

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama", adds_bos=True)


def load(
    path: Path | str,
    *,
    deepest_layer: int = NUM_LAYERS,
    with_lm_head: bool = False,
    dtype: torch.dtype = torch.float32,
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
    )


def error_of(action: Callable[[], object]) -> str:
    """The message of the ValueError, which has one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at all of it
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def damage(folder: Path, tmp_path: Path, **files: bytes | None) -> Path:
    """A copy of a model folder in which files have other bytes, or are gone."""
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    for name, content in files.items():
        file = copy / {"weights": WEIGHTS, "config": CONFIG, "tokenizer": TOKENIZER}[name]
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    return copy


# What is loaded


def test_a_folder_is_found_by_its_path(llama: Path, tmp_path: Path) -> None:
    settings = BackboneSettings(name="tiny", path=str(llama))
    source = find_backbone(settings, tmp_path, torch.float32)
    assert source.folder == source.tokenizer_folder == llama
    assert not source.is_mtp
    config = read_backbone_config(source, settings)
    assert (config.num_hidden_layers, config.hidden_size) == (NUM_LAYERS, HIDDEN_SIZE)


def test_the_tokenizer_may_lie_elsewhere(llama: Path, tmp_path: Path) -> None:
    bare = damage(llama, tmp_path, tokenizer=None)
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
    backbone = load(llama, deepest_layer=deepest_layer)
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
        ("n_heads", 8, 4),
        ("n_kv_heads", 4, 2),
        ("intermediate_size", 65, 64),
        ("rope_theta", 500000.0, 10000.0),
        ("vocab_size", 32000, 320),
    ],
)
def test_params_that_contradict_the_model_are_refused(
    llama: Path, key: str, wrong: float, found: float
) -> None:
    message = error_of(lambda: load(llama, params=BackboneParams(**{key: wrong})))
    assert f"models.policy.params.{key} is {wrong}" in message
    assert f"has {found};" in message
    assert str(llama) in message


# What cannot be loaded


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    message = error_of(lambda: load(tmp_path / "nonesuch"))
    assert f"models.policy.path: '{tmp_path / 'nonesuch'}' is no folder here" in message
    assert "give a model folder, a .gguf file or a hub id" in message


def test_a_hub_that_cannot_be_reached_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: Any, **_options: Any) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    message = error_of(lambda: load("someone/some-model"))
    assert "'someone/some-model' is no folder here" in message
    assert "(no route to host)" in message


def test_a_hub_id_is_fetched_at_its_revision(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        asked.append((hub_id, revision))
        return str(llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("someone/some-model", revision="v2").num_layers == NUM_LAYERS
    assert asked == [("someone/some-model", "v2")]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert error_of(lambda: load(tmp_path)) == (
        f"models.policy.path: {tmp_path}: holds no weights and no config.json"
    )


def test_a_tokenizer_folder_that_is_not_there_is_refused(llama: Path) -> None:
    message = error_of(lambda: load(llama, tokenizer_path="/nonesuch"))
    assert message == "models.policy.tokenizer_path: /nonesuch: no such folder"


@pytest.mark.parametrize("content", [b"", b"x" * 5000, None])
def test_damaged_weights_are_refused(llama: Path, tmp_path: Path, content: bytes | None) -> None:
    folder = damage(llama, tmp_path, weights=content)
    assert error_of(lambda: load(folder)).startswith(f"{folder}: the backbone cannot be read (")


def test_weights_cut_short_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = damage(llama, tmp_path, weights=(llama / WEIGHTS).read_bytes()[:-1000])
    assert error_of(lambda: load(folder)).startswith(f"{folder}: the backbone cannot be read (")


def test_damaged_weights_of_the_old_format_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = damage(llama, tmp_path, weights=None)
    (folder / "pytorch_model.bin").write_bytes(b"garbage")
    assert error_of(lambda: load(folder)).startswith(f"{folder}: the backbone cannot be read (")


def test_a_missing_weight_is_refused_and_not_drawn_at_random(llama: Path, tmp_path: Path) -> None:
    folder = damage(llama, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    message = error_of(lambda: load(folder))
    assert str(folder) in message
    assert "'layers.1.self_attn.q_proj.weight'" in message


def test_a_missing_lm_head_matters_to_the_likelihood_alone(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "headless"
    AutoModel.from_pretrained(llama).save_pretrained(folder)
    shutil.copy(llama / TOKENIZER, folder)
    shutil.copy(llama / "tokenizer_config.json", folder)
    load(folder)
    assert "'lm_head.weight'" in error_of(lambda: load(folder, with_lm_head=True))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"model_type": "nonesuch"}', b'{"hidden_size": 32}', None]
)
def test_a_damaged_config_is_refused(llama: Path, tmp_path: Path, content: bytes | None) -> None:
    folder = damage(llama, tmp_path, config=content)
    settings = BackboneSettings(name="tiny", path=str(folder))
    source = find_backbone(settings, tmp_path, torch.float32)
    message = error_of(lambda: read_backbone_config(source, settings))
    assert message.startswith(f"{folder}: the backbone cannot be read (")
    assert str(folder) in error_of(lambda: load(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_refused(llama: Path, tmp_path: Path, content: bytes) -> None:
    folder = damage(llama, tmp_path, tokenizer=content)
    assert error_of(lambda: load(folder)).startswith(f"{folder}: the tokenizer cannot be read (")


def test_a_tokenizer_of_an_unknown_kind_is_refused(llama: Path, tmp_path: Path) -> None:
    content = json.loads((llama / TOKENIZER).read_text())
    content["model"]["type"] = "Nonesuch"
    folder = damage(llama, tmp_path, tokenizer=json.dumps(content).encode())
    assert error_of(lambda: load(folder)).startswith(f"{folder}: the tokenizer cannot be read (")


def test_a_model_that_is_no_plain_decoder_is_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(torch.nn.ModuleList):
        def __len__(self) -> int:
            return 7

    def load_odd(*_args: Any) -> Any:
        model = AutoModel.from_pretrained(llama)
        model.layers = Odd(model.layers)
        return model

    monkeypatch.setattr(backbone_module, "_load_model", load_odd)
    assert "LlamaModel: no list of 3 blocks found in it" in error_of(lambda: load(llama))


def test_a_lack_of_memory_while_loading_is_not_taken_for_damage(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoModel, "from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load(llama)
