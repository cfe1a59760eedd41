"""What a backbone is, told from its files without loading it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SAMPLE_BYTES = 1 << 16
SAMPLES_PER_FILE = 64

WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "spiece.model",
)  # fmt: skip


def digest_files(files: Iterable[Path]) -> str:
    """A digest of names, sizes and evenly spaced samples of the contents, hex.

    NOTE: 64 blocks of 64 KiB a file, so that 140 GB of weights take a second and not minutes. Any
    retraining, conversion or requantisation changes every block; a single flipped bit may pass,
    which is what the checksums of whoever ships the weights are for.
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
    """The weights and configuration of a model folder; safetensors before older formats."""
    files = [file for file in folder.iterdir() if file.suffix in WEIGHTS]
    if any(file.suffix == ".safetensors" for file in files):
        files = [file for file in files if file.suffix == ".safetensors"]
    configs = [folder / "config.json", folder / "params.json"]
    return files + [file for file in configs if file.exists()]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how text becomes ids."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
