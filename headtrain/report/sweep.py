"""The layer sweep of an experiment, where there is one, as the report shows it."""

import logging
from pathlib import Path

from featurize.io.files import read_json
from headtrain.metrics.bootstrap import Interval
from headtrain.sweep.folder import RESULT_FILE

logger = logging.getLogger(__name__)


def find_sweep(head: str, checkpoint_dir: Path) -> Path:
    """The file of the sweep that the head won, or of the experiment's own sweep."""
    own = Path(head).parent / RESULT_FILE
    return own if own.exists() else checkpoint_dir / "sweep" / RESULT_FILE


def read_sweep(path: Path) -> dict[str, Interval]:
    """The best accuracy over problems by the tensors a head read, single tensors first.

    Empty without a sweep, or where all its points read the same tensors: that is no layer sweep.
    """
    if not path.exists():
        return {}
    best: dict[tuple[str, ...], Interval] = {}
    try:
        for point in read_json(path)["points"]:
            if point["choose"] is None:  # its heads diverged
                continue
            tensors, found = tuple(point["tensors"]), Interval(**point["choose"]["over_problems"])
            if tensors not in best or found.estimate > best[tensors].estimate:
                best[tensors] = found
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("%s is not a sweep's result and is passed over (%s)", path, error)
        return {}
    if len(best) < 2:
        return {}
    return {" + ".join(tensors): best[tensors] for tensors in sorted(best, key=_place)}


def _place(tensors: tuple[str, ...]) -> tuple[int, list[tuple[str, int]]]:
    """Single tensors first, by pooling and layer: mean.2 before mean.12."""
    parts = [name.partition(".") for name in tensors]
    return len(tensors), [
        (pooling, int(layer) if layer.isdigit() else 0) for pooling, _, layer in parts
    ]
