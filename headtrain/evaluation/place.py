"""Where the results of a head go: heads of one experiment do not replace each other's."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from featurize.files import digest

if TYPE_CHECKING:
    from configs.layout import Layout


def results_dir(head: str, layout: "Layout") -> Path:
    """The folder for evaluations of the head at this path or URI.

    Those of the head that is judged by default are on top, those of any other in a folder named
    after it.
    """
    folder, own = Path(head).absolute(), layout.checkpoint_dir.absolute()
    default = own / "best" if (own / "best").exists() else own / "final"
    if folder == default:
        return layout.evaluation_dir
    if folder.is_relative_to(own):
        return layout.evaluation_dir / _name(folder.relative_to(own).parts)
    place = head if "://" in head else str(folder)
    return layout.evaluation_dir / f"{_name(folder.parts[-2:])}-{digest([place])[:6]}"


def _name(parts: tuple[str, ...]) -> str:
    return "-".join(re.sub(r"[^\w.-]+", "-", part).strip("-.") for part in parts)
