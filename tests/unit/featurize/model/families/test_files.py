"""Digests of the files of a backbone."""

import os
from pathlib import Path

import pytest

from featurize.model.families.files import (
    SAMPLE_BYTES,
    SAMPLES_PER_FILE,
    TOKENIZER_FILES,
    digest_files,
    model_files,
    tokenizer_files,
)


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def names(files: list[Path]) -> set[str]:
    return {file.name for file in files}


def test_the_digest_depends_on_names_and_contents_alone(tmp_path):
    one = fill(tmp_path / "one", "a", "b")
    two = fill(tmp_path / "two", "b", "a")
    os.utime(two / "a", (1, 1))
    digest = digest_files([one / "a", one / "b"])
    assert digest == digest_files([two / "b", two / "a"])
    assert len(digest) == 32
    (two / "b").rename(two / "c")
    assert digest_files([two / "a", two / "c"]) != digest
    assert digest_files([one / "a"]) != digest
    (one / "a").write_bytes(b"A")
    assert digest_files([one / "a", one / "b"]) != digest
    assert digest_files([]) == digest_files(iter([]))


@pytest.mark.parametrize("place", [0, 1, SAMPLE_BYTES, 3 * SAMPLE_BYTES - 1])
def test_every_byte_of_a_small_file_counts(tmp_path, place):
    file = tmp_path / "model.safetensors"
    content = bytearray(3 * SAMPLE_BYTES)
    file.write_bytes(content)
    before = digest_files([file])
    content[place] = 1
    file.write_bytes(content)
    assert digest_files([file]) != before


def test_a_large_file_is_sampled_from_end_to_end(tmp_path):
    file, size = tmp_path / "model.safetensors", 3 * SAMPLE_BYTES * SAMPLES_PER_FILE
    file.touch()
    os.truncate(file, size)
    zeros = digest_files([file])
    for block in (0, SAMPLES_PER_FILE // 2, SAMPLES_PER_FILE - 1):
        with file.open("r+b") as opened:
            opened.seek(block * 3 * SAMPLE_BYTES)
            opened.write(b"1")
        assert digest_files([file]) != zeros
        os.truncate(file, 0)
        os.truncate(file, size)
        assert digest_files([file]) == zeros
    os.truncate(file, size + 1)
    assert digest_files([file]) != zeros


def test_safetensors_take_precedence_over_other_weights(tmp_path):
    folder = fill(tmp_path / "m", "pytorch_model.bin", "config.json", "README.md")
    assert names(model_files(folder)) == {"pytorch_model.bin", "config.json"}
    fill(folder, "model-1.safetensors", "model-2.safetensors", "consolidated.00.pth")
    found = {"model-1.safetensors", "model-2.safetensors", "config.json"}
    assert names(model_files(folder)) == found


def test_a_llama_folder_has_a_checkpoint_and_parameters(tmp_path):
    folder = fill(tmp_path / "m", "consolidated.pth", "params.json", "tokenizer.model")
    assert names(model_files(folder)) == {"consolidated.pth", "params.json"}
    assert names(tokenizer_files(folder)) == {"tokenizer.model"}


def test_a_folder_without_a_model_has_no_files(tmp_path):
    folder = fill(tmp_path / "m", "README.md")
    assert model_files(folder) == tokenizer_files(folder) == []


@pytest.mark.parametrize("name", TOKENIZER_FILES)
def test_every_file_of_a_tokenizer_changes_its_digest(tmp_path, name):
    folder = fill(tmp_path / "m", *TOKENIZER_FILES, "config.json")
    before = digest_files(tokenizer_files(folder))
    (folder / "config.json").write_text("{}")
    assert digest_files(tokenizer_files(folder)) == before
    (folder / name).write_text("other")
    assert digest_files(tokenizer_files(folder)) != before
