"""The SentencePiece tokenizer of a llama-MTP checkpoint, as a fast tokenizer of transformers."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from featurize.errors import CriticError
from featurize.model.families.family import first_line
from featurize.model.families.llama_mtp_checkpoint import open_weights

# Indentation, leading spaces, special tokens as text, bytes outside the vocabulary, digits.
_PROBE = "  def ü(x):\n\treturn '<s></s>日\ufb01' # 1234  "


def load_llama_mtp_tokenizer(folder: Path, tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that yields the same ids as SentencePiece itself.

    Args:
        folder: the checkpoint, whose embedding table must have a row for every token.
        tokenizer_folder: where `tokenizer.model` is, or its parent folder: Meta publishes one file
            for several checkpoints.

    Raises:
        CriticError: there is no such file, or it does not fit the checkpoint.
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2  # needs protobuf
    except ImportError as error:
        raise CriticError(
            f"{folder}: reading tokenizer.model needs the packages sentencepiece and protobuf; "
            "pip install sentencepiece protobuf"
        ) from error
    file = _find_tokenizer(tokenizer_folder)
    try:
        reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise CriticError(f"{file}: not a SentencePiece model ({first_line(error)})") from error
    _check_embeddings(folder, file, reference.vocab_size())
    tokenizer = _to_fast_tokenizer(file)
    messages: Any = sentencepiece_model_pb2  # generated at import: mypy sees nothing in it
    trainer = messages.ModelProto.FromString(file.read_bytes()).trainer_spec
    ids = tokenizer.encode(_PROBE, add_special_tokens=False)
    if trainer.model_type != trainer.BPE or ids != reference.encode(_PROBE):
        raise CriticError(
            f"{file}: not a Llama 2 tokenizer (BPE with byte fallback, identity normalisation); "
            "give the tokenizer of the checkpoint"
        )
    return tokenizer


def _find_tokenizer(folder: Path) -> Path:
    for file in (folder / "tokenizer.model", folder.resolve().parent / "tokenizer.model"):
        if file.is_file():
            return file
    raise CriticError(
        f"{folder}: no tokenizer.model in the folder or its parent; set"
        " models.policy.tokenizer_path to its path"
    )


def _check_embeddings(folder: Path, file: Path, num_pieces: int) -> None:
    with ExitStack() as files:
        weights = open_weights(folder, files)
        num_rows, _ = weights.matrix_shape("tok_embeddings.weight")
    if num_pieces > num_rows:
        raise CriticError(
            f"{file}: {num_pieces} pieces, but tok_embeddings.weight in {weights.origin} has "
            f"{num_rows} rows; give the tokenizer of the checkpoint"
        )


def _to_fast_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    tokenizer_class: Any = LlamaTokenizer  # its methods have no types
    vocabulary = tokenizer_class.convert_to_native_format(vocab_file=str(file))
    llama = tokenizer_class(**vocabulary, add_bos_token=True)
    backend = llama.backend_tokenizer
    # NOTE: LlamaTokenizer omits SentencePiece's leading space if the text starts with a space, so
    # indented code would lose one. These two steps are what SentencePiece does. A plain fast
    # tokenizer keeps them through save_pretrained; LlamaTokenizer would rebuild its own.
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast_class: Any = PreTrainedTokenizerFast
    specials = {name: getattr(llama, name) for name in ("bos_token", "eos_token", "unk_token")}
    tokenizer: PreTrainedTokenizerBase = fast_class(
        tokenizer_object=backend,
        **specials,
        # "<s>" within a text is plain text, as for Meta's tokenizer, not the start of a sequence.
        split_special_tokens=True,
    )
    return tokenizer
