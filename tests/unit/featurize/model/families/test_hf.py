"""Hugging Face folders: damaged files, missing weights and quantization."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from featurize.model.families.hf import to_quantization_config
from featurize.model.source import read_backbone_config
from featurize.settings import BackboneSettings
from tests.support.loaded_backbones import error_of, find, load

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def damage(folder: Path, tmp_path: Path, **files: bytes | None) -> Path:
    """Copy a model folder and replace the contents of files, or delete them (None)."""
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    for name, content in files.items():
        file = copy / {"weights": WEIGHTS, "config": CONFIG, "tokenizer": TOKENIZER}[name]
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    return copy


@pytest.mark.parametrize("content", [b"", b"x" * 5000, None, "cut", "old format"])
def test_damaged_weights_are_refused(
    llama: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    if content == "cut":
        content = (llama / WEIGHTS).read_bytes()[:-1000]
    folder = damage(llama, tmp_path, weights=content if isinstance(content, bytes) else None)
    if content == "old format":
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


def test_a_missing_lm_head_matters_only_for_the_likelihood(llama: Path, tmp_path: Path) -> None:
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
    source = find(folder)
    message = error_of(lambda: read_backbone_config(source, settings))
    assert message.startswith(f"{folder}: the backbone cannot be read (")
    assert str(folder) in error_of(lambda: load(folder))


UNKNOWN_TOKENIZER = b'{"version": "1.0", "model": {"type": "Nonesuch"}}'


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", UNKNOWN_TOKENIZER])
def test_a_damaged_tokenizer_is_refused(llama: Path, tmp_path: Path, content: bytes) -> None:
    folder = damage(llama, tmp_path, tokenizer=content)
    assert error_of(lambda: load(folder)).startswith(f"{folder}: the tokenizer cannot be read (")


def test_out_of_memory_while_loading_is_not_reported_as_damage(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoModel, "from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        load(llama)


def pretend_bitsandbytes(monkeypatch: pytest.MonkeyPatch, *, is_installed: bool) -> None:
    found = object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantization_without_its_library_is_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    pretend_bitsandbytes(monkeypatch, is_installed=False)
    message = error_of(lambda: load(llama, quantization=bits, dtype=torch.bfloat16))
    assert message.startswith(f"models.policy.quantization is '{bits}'")
    assert "pip install bitsandbytes" in message


def test_bits_become_settings_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_bitsandbytes(monkeypatch, is_installed=True)
    eight = to_quantization_config("8bit", torch.bfloat16)
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    four = to_quantization_config("4bit", torch.float16)
    assert (four.load_in_8bit, four.load_in_4bit) == (False, True)
    assert four.bnb_4bit_quant_type == "nf4"
    assert four.bnb_4bit_compute_dtype == torch.float16


def test_a_model_is_loaded_without_transformers_progress_bars(
    llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    was_on = is_progress_bar_enabled()
    enable_progress_bar()
    try:
        load(str(llama))
        assert is_progress_bar_enabled()
    finally:
        if not was_on:
            disable_progress_bar()
    assert "Loading" not in capfd.readouterr().err
