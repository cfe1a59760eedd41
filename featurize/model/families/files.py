"""The files of a backbone and the digests that identify it without loading it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SAMPLE_BYTES = 1 << 16
SAMPLES_PER_FILE = 64

WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")
CONFIGS = ("config.json", "params.json")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "spiece.model",
)  # fmt: skip


def digest_files(files: Iterable[Path]) -> str:
    """Return a hex digest of the names and sizes of files and of samples of their contents.

    NOTE: it reads 64 blocks of 64 KiB per file, so 140 GB of weights take a second and not minutes.
    Training, conversion and quantization change every block. A single flipped bit may go unnoticed;
    checksums published with the weights detect that.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(files, key=lambda file: file.name):
        size = path.stat().st_size
        total.update(f"{path.name}:{size}:".encode())
        step = max(SAMPLE_BYTES, size // SAMPLES_PER_FILE)
        with path.open("rb") as file:
            for offset in range(0, size, step):
                file.seek(offset)
                total.update(file.read(SAMPLE_BYTES))
    return total.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """List the weights and configs of a model folder; if it has safetensors, no other weights."""
    files = [file for file in folder.iterdir() if file.suffix in WEIGHTS]
    if any(file.suffix == ".safetensors" for file in files):
        files = [file for file in files if file.suffix == ".safetensors"]
    return files + _existing(folder, CONFIGS)


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files that decide how text becomes token ids."""
    return _existing(folder, TOKENIZER_FILES)


def _existing(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).exists()]
