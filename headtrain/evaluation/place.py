"""Where the results of a head go: heads of one experiment do not replace each other's."""

import contextlib
import re
from pathlib import Path

from featurize.data.sources import SUFFIXES
from featurize.io.files import digest
from headtrain.head.checkpoint import CheckpointError, find_head


def results_dir(head: str, checkpoint_dir: Path, evaluation_dir: Path) -> Path:
    """The folder for evaluations of the head at this path or URI.

    Those of the head that is judged by default are on top, those of any other in a folder named
    after it.
    """
    with contextlib.suppress(CheckpointError):  # the experiment has no head of its own yet
        if Path(head).absolute() == Path(find_head(str(checkpoint_dir.absolute()))):
            return evaluation_dir
    return evaluation_dir / head_name(head, checkpoint_dir)


def head_name(head: str, checkpoint_dir: Path) -> str:
    """A name for files about the head at this path or URI: its folder, hashed where far away."""
    folder, own = Path(head).absolute(), checkpoint_dir.absolute()
    if folder.is_relative_to(own):
        return _name(folder.relative_to(own).parts)
    place = head if "://" in head else str(folder)
    return f"{_name(folder.parts[-2:])}-{digest([place])[:6]}"


def data_name(data: str, fingerprint: str) -> str:
    """A name for a file or glob: its own without the ending, and part of its content's digest.

    Files of one name with different content do not replace each other's results.
    """
    name = Path(data).name
    stem = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
    return f"data-{to_name(stem) or 'file'}-{fingerprint[:6]}"


def to_name(text: str) -> str:
    """Text as part of a file's name: what is neither letter nor digit becomes a dash."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _name(parts: tuple[str, ...]) -> str:
    return "-".join(map(to_name, parts))
