import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from featurize.model.families.llama_mtp_files import load_llama_mtp_tokenizer
from tests.support.loaded_backbones import error_of

TEXTS = [
    "",
    " ",
    "def f(x):\n    return x + 1",
    "    return x",
    "\treturn x\n\n\n",
    "a </s> in <s> text <unk> <0x0A>",
    "the number 12345 is 日本 \u00e9 \ufb01 \u3000 \x00",
    "  two  spaces  ",
    "▁ ▁▁",
]


def train_tokenizer(folder: Path, **options: Any) -> Path:
    lines = [f"def add_{i}(x):\n    return x + {i}  # the number {i}" for i in range(200)]
    defaults: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 320,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        num_threads=1,
        minloglevel=2,
        **defaults | options,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write_checkpoint(folder: Path, *, num_embeddings: int) -> Path:
    """Write the part of a checkpoint that a tokenizer is checked against."""
    folder.mkdir()
    tensors = {"tok_embeddings.weight": torch.zeros(num_embeddings, 8)}
    torch.save(tensors, folder / "consolidated.pth")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "7B_4", num_embeddings=320)


def tokenizer_error(folder: Path, tokenizer_folder: Path) -> str:
    return error_of(lambda: load_llama_mtp_tokenizer(folder, tokenizer_folder))


def assert_same_ids(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    for text in TEXTS:
        ids = reference.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, repr(text)
        assert tokenizer(text)["input_ids"] == [reference.bos_id(), *ids], repr(text)
        assert tokenizer.decode(ids) == reference.decode(ids)


def test_the_tokenizer_yields_sentencepieces_own_ids(folder: Path, tokenizer_file: Path) -> None:
    tokenizer = load_llama_mtp_tokenizer(folder, tokenizer_file.parent)
    assert_same_ids(tokenizer, tokenizer_file)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_the_tokenizer_survives_saving(folder: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    tokenizer = load_llama_mtp_tokenizer(folder, tokenizer_file.parent)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert_same_ids(AutoTokenizer.from_pretrained(tmp_path / "saved"), tokenizer_file)


@pytest.mark.parametrize("place", [".", ".."])
def test_the_tokenizer_is_found_in_the_folder_or_beside_it(
    folder: Path, tokenizer_file: Path, place: str
) -> None:
    assert "set models.policy.tokenizer_path" in tokenizer_error(folder, folder)
    (folder / place / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    assert len(load_llama_mtp_tokenizer(folder, folder)) == 320


def test_a_tokenizer_larger_than_the_embedding_is_refused(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    folder = write_checkpoint(tmp_path / "small", num_embeddings=319)
    message = tokenizer_error(folder, tokenizer_file.parent)
    assert "320 pieces, but tok_embeddings.weight" in message
    assert "319 rows" in message


def test_a_file_that_is_no_sentencepiece_model_is_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"\x80\x04not a model")
    assert "not a SentencePiece model" in tokenizer_error(folder, file.parent)


@pytest.mark.parametrize(
    "options",
    [{"model_type": "unigram", "hard_vocab_limit": False}, {"normalization_rule_name": "nfkc"}],
)
def test_a_tokenizer_that_a_llama_cannot_reproduce_is_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    file = train_tokenizer(tmp_path / "other", **options)
    assert "not a Llama 2 tokenizer" in tokenizer_error(folder, file.parent)


def test_a_missing_sentencepiece_package_is_named(
    folder: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert "pip install sentencepiece" in tokenizer_error(folder, tokenizer_file.parent)
