"""Where the files of a backbone are found, and what identifies them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

from featurize.model.source import load_tokenizer, read_backbone_config
from featurize.settings import BackboneSettings
from tests.support.loaded_backbones import error_of, find, load
from tests.support.tiny_models import (
    HIDDEN_SIZE,
    NUM_LAYERS,
    make_tokenizer,
    write_tiny_llama,
)

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def test_a_folder_is_found_by_its_path(llama: Path) -> None:
    settings = BackboneSettings(name="tiny", path=str(llama))
    source = find(llama)
    assert source.folder == source.tokenizer_folder == llama
    config = read_backbone_config(source, settings)
    assert (config.num_hidden_layers, config.hidden_size) == (NUM_LAYERS, HIDDEN_SIZE)


def test_the_tokenizer_may_be_in_another_folder(llama: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(llama, bare)
    (bare / TOKENIZER).unlink()
    for place in (llama, llama / TOKENIZER):
        settings = BackboneSettings(name="tiny", path=str(bare), tokenizer_path=str(place))
        source = find(bare, tokenizer_path=str(place))
        assert source.tokenizer_folder == llama
        assert load_tokenizer(source, settings)("x + 1")["input_ids"][0] == 0


def test_weights_and_tokenizers_have_digests_of_their_own(tmp_path: Path) -> None:
    first = find(write_tiny_llama(tmp_path / "a"))
    same = find(write_tiny_llama(tmp_path / "same"))
    other = find(write_tiny_llama(tmp_path / "other", seed=1))
    bos = find(write_tiny_llama(tmp_path / "bos", adds_bos=True))
    assert first.digest == same.digest == bos.digest != other.digest
    assert first.tokenizer_digest == same.tokenizer_digest == other.tokenizer_digest
    assert first.tokenizer_digest != bos.tokenizer_digest


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    message = error_of(lambda: load(tmp_path / "nonesuch"))
    assert f"models.policy.path: '{tmp_path / 'nonesuch'}' is no local folder" in message
    assert ".gguf file or a hub id" in message


def test_an_unreachable_hub_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: Any, **_options: Any) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    message = error_of(lambda: load("someone/some-model"))
    assert "'someone/some-model'" in message
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
    assert message.startswith(f"models.policy.revision 'v2': {llama} ")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert f"models.policy.path: {tmp_path}: no weights" in error_of(lambda: load(tmp_path))


def test_a_missing_tokenizer_folder_is_refused(llama: Path) -> None:
    message = error_of(lambda: load(llama, tokenizer_path="/nonesuch"))
    assert message == "models.policy.tokenizer_path: /nonesuch: no such folder"


def put_into_cache(cache: Path, name: str) -> Path:
    """Lay out a model as the hub's cache has it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    commit = "a" * 40
    (repository / "refs" / "main").write_text(commit)
    return write_tiny_llama(repository / "snapshots" / commit)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face on a machine without a network."""
    cache = tmp_path / "huggingface"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_model_in_the_hubs_cache_is_used_from_there(offline: Path, tmp_path: Path) -> None:
    folder = put_into_cache(offline, "owner/model")
    assert find("owner/model", tmp_path / "own").folder == folder
    assert not (tmp_path / "own" / "hub").exists()


def test_a_cache_with_only_some_of_the_weights_is_no_model(offline: Path, tmp_path: Path) -> None:
    folder = put_into_cache(offline, "owner/model")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = error_of(lambda: find("owner/model", tmp_path / "own"))
    assert "model-00002.safetensors is missing" in message


def test_the_likelihood_of_a_reward_model_names_the_setting(tmp_path: Path) -> None:
    whole = write_tiny_llama(tmp_path / "llama")
    folder = tmp_path / "reward"
    AutoModelForSequenceClassification.from_pretrained(whole).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    load(folder)
    assert "featurize.likelihood=false" in error_of(lambda: load(folder, with_lm_head=True))
