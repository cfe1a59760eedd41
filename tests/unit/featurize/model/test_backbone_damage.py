import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from featurize.model import backbone as backbone_module
from featurize.model.backbone import (
    Backbone,
    find_backbone,
    load_backbone,
    load_tokenizer,
    read_backbone_config,
)
from featurize.settings import BackboneSettings
from tests.support.plain_features import CPU
from tests.support.tiny_models import (
    NUM_LAYERS,
    write_tiny_llama,
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

    def download(
        hub_id: str, *, revision: str | None, allow_patterns: list[str], cache_dir: Path
    ) -> str:
        assert "*.safetensors" in allow_patterns
        assert cache_dir == Path("nowhere/hub")
        asked.append((hub_id, revision))
        return str(llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("someone/some-model", revision="v2").num_layers == NUM_LAYERS
    assert asked == [("someone/some-model", "v2")]


def test_a_folder_has_no_revisions(llama: Path) -> None:
    message = error_of(lambda: load(llama, revision="v2"))
    assert message.startswith("models.policy.revision 'v2': ")
    assert "only a hub id has revisions" in message


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
