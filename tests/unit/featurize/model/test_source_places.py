"""Where the files of a backbone are: the hub's cache is not copied."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

from featurize.model.source import find_backbone
from featurize.settings import BackboneSettings
from tests.support.loaded_backbones import error_of, load
from tests.support.tiny_models import make_tokenizer, write_tiny_llama


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
    settings = BackboneSettings(name="tiny", path="owner/model")
    assert find_backbone(settings, tmp_path / "own", torch.float32).folder == folder
    assert not (tmp_path / "own" / "hub").exists()


def test_a_cache_with_only_some_of_the_weights_is_no_model(offline: Path, tmp_path: Path) -> None:
    folder = put_into_cache(offline, "owner/model")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = BackboneSettings(name="tiny", path="owner/model")
    message = error_of(lambda: find_backbone(settings, tmp_path / "own", torch.float32))
    assert "model-00002.safetensors is missing" in message


def test_the_likelihood_of_a_reward_model_names_the_setting(tmp_path: Path) -> None:
    whole = write_tiny_llama(tmp_path / "llama")
    folder = tmp_path / "reward"
    AutoModelForSequenceClassification.from_pretrained(whole).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    load(folder)
    assert "featurize.likelihood=false" in error_of(lambda: load(folder, with_lm_head=True))
