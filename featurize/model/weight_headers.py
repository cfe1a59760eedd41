"""What the headers of a backbone's weights say, read before the weights are."""

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from featurize.errors import CriticError
from featurize.settings import BackboneSettings

logger = logging.getLogger(__name__)

_POINTER = b"version https://git-lfs"
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.weight$")
_OTHER_TOWERS = re.compile(r"vision|visual|audio|image|encoder|talker|code2wav|mtp")
_MORE_BLOCKS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


def check_weights(folder: Path, config: PreTrainedConfig, settings: BackboneSettings) -> None:
    """Check the safetensors files of a model folder; warn of blocks that would not be used.

    What cannot be read is left to the library that reads the weights.

    Raises:
        CriticError: a file is only a pointer of Git LFS, or the embedding has other rows than the
            config says.
    """
    if settings.weights == "random":
        return
    shapes = dict(_shapes(sorted(folder.glob("*.safetensors"))))
    text = config.get_text_config()
    _check_embedding(folder, shapes, getattr(text, "vocab_size", None))
    wanted = getattr(text, "num_hidden_layers", None)
    found = _count_blocks(shapes)
    extra = sum(getattr(text, name, None) or 0 for name in _MORE_BLOCKS)
    if isinstance(wanted, int) and found > wanted + extra:
        logger.warning(
            "%s has the weights of %d blocks, but its config.json says num_hidden_layers %d: the"
            " blocks after these are not used",
            folder,
            found,
            wanted,
        )


def _shapes(files: Iterable[Path]) -> Iterator[tuple[str, list[int]]]:
    """Yield name and shape of every tensor; nothing for a file whose header is damaged."""
    for file in files:
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise CriticError(
                    f"{file}: is a pointer of Git LFS, not the weights; run `git lfs pull` in its"
                    " folder, or download the model again"
                )
        try:
            with safe_open(file, "pt") as tensors:
                yield from ((name, tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError:
            continue


def _check_embedding(folder: Path, shapes: dict[str, list[int]], rows: int | None) -> None:
    found = [n for n in shapes if _EMBEDDING.search(n) and not _OTHER_TOWERS.search(n)]
    if len(found) == 1 and rows is not None and shapes[found[0]][0] != rows:
        raise CriticError(
            f"{folder}: {found[0]} has {shapes[found[0]][0]} rows, but config.json says vocab_size"
            f" {rows}; download config and weights of one model"
        )


def _count_blocks(names: Iterable[str]) -> int:
    numbers = [
        int(found[1])
        for name in names
        if not _OTHER_TOWERS.search(name) and (found := _BLOCK.search(name))
    ]
    return max(numbers, default=-1) + 1
