"""The numbers, tensors and tokenizer of a llama-MTP checkpoint."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from featurize.model.families.llama_mtp_files import (
    load_llama_mtp_tokenizer,
    open_weights,
    read_params,
)
from tests.support.loaded_backbones import error_of

REQUIRED: dict[str, Any] = {"dim": 4096, "n_layers": 32, "n_heads": 32}


def write_params(folder: Path, **changes: Any) -> Path:
    (folder / "params.json").write_text(json.dumps(REQUIRED | changes))
    return folder


def params_error(folder: Path) -> str:
    return error_of(lambda: read_params(folder))


def weights_error(folder: Path) -> str:
    return error_of(lambda: open_weights(folder))


def test_absent_params_take_metas_defaults(tmp_path: Path) -> None:
    params = read_params(write_params(tmp_path, vocab_size=-1, n_kv_heads=None))
    assert (params.n_future_tokens, params.rope_theta, params.norm_eps) == (1, 10000.0, 1e-5)
    assert (params.n_kv_heads, params.vocab_size, params.ffn_width) == (None, None, None)


@pytest.mark.parametrize(
    ("dim", "changes", "width"),
    [
        (4096, {"multiple_of": 256}, 11008),  # Llama 2 7B
        (5120, {"multiple_of": 256}, 13824),  # Llama 2 13B
        (8192, {"multiple_of": 4096, "ffn_dim_multiplier": 1.3}, 28672),  # Llama 2 70B
        (8192, {"ffn_dim_multiplier": 1.3}, 28416),
    ],
)
def test_ffn_width_follows_metas_formula(
    tmp_path: Path, dim: int, changes: dict[str, Any], width: int
) -> None:
    assert read_params(write_params(tmp_path, dim=dim, **changes)).ffn_width == width


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_layers": "five"}, "n_layers is 'five', expected a positive int"),
        ({"n_layers": 5.0}, "n_layers is 5.0, expected a positive int"),
        ({"n_heads": None}, "n_heads is None, expected a positive int"),
        ({"n_heads": True}, "n_heads is True"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"norm_eps": 0}, "norm_eps is 0, expected a positive float"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"use_scaled_rope": True}, "use_scaled_rope"),
    ],
)
def test_impossible_params_are_refused(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    message = params_error(write_params(tmp_path, **changes))
    assert complaint in message
    assert "params.json" in message


@pytest.mark.parametrize(("text", "complaint"), [("{", "not JSON"), ("[1]", "found list")])
def test_params_that_are_no_json_object_are_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "params.json").write_text(text)
    assert complaint in params_error(tmp_path)


def test_a_folder_without_params_is_refused(tmp_path: Path) -> None:
    assert "expected a llama-MTP folder" in params_error(tmp_path)


def write_tensors(file: Path) -> None:
    tensors = {
        "layers.0.x": torch.ones(200, 3),
        "layers.11.x": torch.ones(2),
        "norm": torch.ones(1),
    }
    if file.suffix == ".pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)


@pytest.mark.parametrize("name", ["consolidated.pth", "consolidated.safetensors"])
def test_tensors_and_layers_are_found_in_either_format(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / name)
    weights = open_weights(tmp_path)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    assert shapes == {"layers.0.x": (200, 3), "layers.11.x": (2,), "norm": (1,)}
    assert (weights.count("layers"), weights.count("extra_heads")) == (12, 0)
    assert weights.origin == tmp_path / name
    torch.testing.assert_close(weights.get("layers.0.x"), torch.ones(200, 3))


class Intruder:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was_here"
    torch.save({"norm": torch.ones(1), "x": Intruder(trace)}, tmp_path / "consolidated.pth")
    message = weights_error(tmp_path)
    assert f"objects that are not tensors ({os.mkdir.__module__}.mkdir)" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": {"norm": torch.ones(1)}}, "'model' is a dict, expected a tensor"),
        ([torch.ones(1)], "found list"),
        (torch.ones(1), "found Tensor"),
    ],
)
def test_a_pickle_that_is_no_dict_of_tensors_is_refused(
    tmp_path: Path, content: object, complaint: str
) -> None:
    torch.save(content, tmp_path / "consolidated.pth")
    assert complaint in weights_error(tmp_path)


def test_the_old_pickle_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "consolidated.pth"
    torch.save({"norm": torch.ones(1)}, file, _use_new_zipfile_serialization=False)
    assert "not a torch.save file in the zip format" in weights_error(tmp_path)


@pytest.mark.parametrize("name", ["consolidated.pth", "model.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    file = tmp_path / name
    write_tensors(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    assert str(file) in weights_error(tmp_path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "found none"),
        (("consolidated.00.pth", "consolidated.01.pth"), "00.pth, consolidated.01.pth"),
        (("consolidated.pth", "a.safetensors"), "found consolidated.pth, a.safetensors"),
    ],
)
def test_there_must_be_one_set_of_weights(
    tmp_path: Path, names: tuple[str, ...], found: str
) -> None:
    for name in names:
        write_tensors(tmp_path / name)
    message = weights_error(tmp_path)
    assert found in message
    assert "keep one set of weights" in message


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors")
    save_file({"norm": torch.ones(1)}, tmp_path / "b.safetensors")
    assert "b.safetensors: 'norm' is also in another shard" in weights_error(tmp_path)


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
