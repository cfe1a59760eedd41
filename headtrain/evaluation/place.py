"""Where the results of a head go: heads of one experiment do not replace each other's."""

import re
from pathlib import Path

from featurize.files import digest


def results_dir(head: str, checkpoint_dir: Path, evaluation_dir: Path) -> Path:
    """The folder for evaluations of the head at this path or URI.

    Those of the head that is judged by default are on top, those of any other in a folder named
    after it.
    """
    folder, own = Path(head).absolute(), checkpoint_dir.absolute()
    default = own / "best" if (own / "best").exists() else own / "final"
    if folder == default:
        return evaluation_dir
    if folder.is_relative_to(own):
        return evaluation_dir / _name(folder.relative_to(own).parts)
    place = head if "://" in head else str(folder)
    return evaluation_dir / f"{_name(folder.parts[-2:])}-{digest([place])[:6]}"


def _name(parts: tuple[str, ...]) -> str:
    return "-".join(re.sub(r"[^\w.-]+", "-", part).strip("-.") for part in parts)
