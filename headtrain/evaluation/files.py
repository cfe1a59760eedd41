"""Files of an evaluation: where they are, how they are written and read, what they were made from.

Beside `valid.json`, the file `valid.inputs.json` has a digest of all inputs and the checksums of
the files that were written, so that a finished evaluation is not computed again. Nothing is
imported that needs torch, so that it can be shown at once.
"""

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.data.sources import SUFFIXES
from featurize.io.files import checksum, digest, read_json, write_json

if TYPE_CHECKING:
    from headtrain.evaluation.results import Evaluation
    from headtrain.head.checkpoint import TrainedHead

LONGEST_NAMES = 100
"""Letters of the names of heads in a file name."""


def default_head(checkpoint_dir: Path) -> Path | None:
    """Find the head of a run that is evaluated by default: the best, else the final one."""
    candidates = (checkpoint_dir, checkpoint_dir / "best", checkpoint_dir / "final")
    return next((folder for folder in candidates if (folder / "head.json").exists()), None)


def results_dir(head: str, checkpoint_dir: Path, evaluation_dir: Path) -> Path:
    """Get the folder for evaluations of the head at this path or URI.

    It is `evaluation_dir` for the default head, and a folder below it, named after the head, for
    any other, so that heads do not overwrite each other's results.
    """
    default = default_head(checkpoint_dir)
    if default is not None and Path(head).absolute() == default.absolute():
        return evaluation_dir
    return evaluation_dir / head_name(head, checkpoint_dir)


def head_name(head: str, checkpoint_dir: Path) -> str:
    """Name files about the head at this path or URI: its folder, with a hash if it is elsewhere."""
    folder, own = Path(head).absolute(), checkpoint_dir.absolute()
    if folder.is_relative_to(own):
        return "-".join(map(to_name, folder.relative_to(own).parts))
    location = head if "://" in head else str(folder)
    return f"{'-'.join(map(to_name, folder.parts[-2:]))}-{digest([location])[:6]}"


def report_name(split: str, heads: Sequence[str], checkpoint_dir: Path) -> str:
    """Name the page of several heads after them, or after a hash where that would be long."""
    names = "+".join(head_name(head, checkpoint_dir) for head in heads)
    if len(names) > LONGEST_NAMES:
        names = f"{len(heads)}-heads-{digest(list(heads))[:8]}"
    return f"report-{split}-{names}.html"


def data_name(data: str, fingerprint: str) -> str:
    """Name a file or glob: its name without the ending, and part of its content's digest.

    Files of the same name with different content do not overwrite each other's results.
    """
    name = Path(data).name
    stem = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
    return f"data-{to_name(stem) or 'file'}-{fingerprint[:6]}"


def to_name(text: str) -> str:
    """Turn text into a part of a file name: other characters become dashes."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def write_evaluation(
    path: Path,
    evaluation: "Evaluation",
    head: "TrainedHead",
    *,
    benchmark: Mapping[str, Any] | None = None,
) -> bool:
    """Write the evaluation as JSON with the head it is of; False if the file has it already."""
    about = {
        "path": head.path,
        "weights_checksum": head.record.weights_checksum,
        "recipe_fingerprint": head.record.recipe_fingerprint,
    }
    more = {} if benchmark is None else {"benchmark": benchmark}
    content = json.loads(json.dumps({"head": about, **more, **evaluation.to_dict()}))
    if path.exists() and read_json(path) == content:
        return False
    write_json(path, content)
    return True


def read_evaluation(path: Path) -> "Evaluation":
    """Read an evaluation back from its JSON.

    Raises:
        ValueError: the file is damaged or of another version.
    """
    from headtrain.evaluation.results import Evaluation

    try:
        return Evaluation.from_dict(read_json(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is not an evaluation ({error}); delete it and rerun") from error


def read_inputs(head: Path, stores: Mapping[str, Path], **others: Any) -> dict[str, Any] | None:
    """Describe what an evaluation and its report depend on; equal inputs give equal files.

    Args:
        head: folder of the head; head.json has the checksum of the weights.
        stores: folders of the feature stores, by split.
        others: plain values, as JSON has them: settings, seed, title, the baseline, and size and
            time of the dataset's files (`find_sources`), which may be gone, and of the sweep.

    Returns:
        None if the head or a store is not there, or is not local.
    """
    try:
        return {
            "head": checksum(head / "head.json"),
            "stores": {name: checksum(path / "manifest.json") for name, path in stores.items()},
            "version": importlib.metadata.version("critic"),
            **others,
        }
    except OSError:
        return None


def record_inputs(evaluation: Path, inputs: Mapping[str, Any], written: Sequence[Path]) -> None:
    """Record what an evaluation was made from, and the files written, its JSON among them."""
    files = {str(path.relative_to(evaluation.parent)): checksum(path) for path in written}
    write_json(_record_path(evaluation), {"inputs": digest(inputs), "files": files})


def is_up_to_date(evaluation: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the evaluation was made from these inputs and its files are unchanged."""
    try:
        record = read_json(_record_path(evaluation))
        files = {name: checksum(evaluation.parent / name) for name in record["files"]}
        return bool(
            evaluation.name in files and record == {"inputs": digest(inputs), "files": files}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no record, or a damaged one


def _record_path(evaluation: Path) -> Path:
    return evaluation.with_name(f"{evaluation.stem}.inputs.json")
