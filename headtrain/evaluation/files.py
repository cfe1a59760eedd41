"""Files of an evaluation: where they go, how they are written, and whether they are up to date.

Beside `valid.json` there is `valid.inputs.json`: digests of everything the evaluation was made
from, and checksums of its files. If all still agree, the evaluation need not be repeated. Nothing
here imports torch.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.io.files import checksum, digest, read_json, write_json

if TYPE_CHECKING:
    from headtrain.evaluation.results import Evaluation
    from headtrain.head.checkpoint import TrainedHead


def results_dir(head: str, checkpoint_dir: Path, evaluation_dir: Path) -> Path:
    """Get the folder for evaluations of the head at this path or URI.

    It is `evaluation_dir` for the head that is evaluated by default, and a folder below it, named
    after the head, for any other, so that heads do not overwrite each other's results.
    """
    from headtrain.head.checkpoint import CheckpointError, find_head

    with contextlib.suppress(CheckpointError):  # the experiment has no head of its own yet
        if Path(head).absolute() == Path(find_head(str(checkpoint_dir.absolute()))):
            return evaluation_dir
    return evaluation_dir / head_name(head, checkpoint_dir)


def head_name(head: str, checkpoint_dir: Path) -> str:
    """Name files about the head at this path or URI: its folder, with a hash if it is elsewhere."""
    folder, own = Path(head).absolute(), checkpoint_dir.absolute()
    if folder.is_relative_to(own):
        return _join(folder.relative_to(own).parts)
    location = head if "://" in head else str(folder)
    return f"{_join(folder.parts[-2:])}-{digest([location])[:6]}"


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


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What an evaluation depends on; equal inputs give equal files."""

    head: str
    """Digest or content of head.json, which has the checksum of the weights."""

    stores: Mapping[str, str]
    """Fingerprint of the feature store, by split."""

    texts: Mapping[str, Any]
    """What identifies the dataset files of each split, such as sizes and times; None if gone."""

    settings: Mapping[str, Any]
    """Settings of the evaluation and of the report: section `evaluation`, seed, title, baseline."""

    version: str
    """Version of critic."""

    @property
    def digest(self) -> str:
        """Digest of all of them."""
        return digest(dataclasses.asdict(self))


def describe_files(paths: Sequence[Path]) -> list[list[Any]]:
    """Get name, size and time of change of local files, without reading them."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)]


def record_inputs(path: Path, inputs: EvaluationInputs, files: Sequence[Path]) -> None:
    """Record what the evaluation at `path` was made from, and the files that were written."""
    checksums = {str(file.relative_to(path.parent)): checksum(file) for file in files}
    write_json(_inputs_path(path), {"inputs": inputs.digest, "files": checksums})


def is_up_to_date(path: Path, inputs: EvaluationInputs) -> bool:
    """Whether the evaluation at `path` was made from these inputs and its files are unchanged."""
    try:
        record = read_json(_inputs_path(path))
        return bool(
            record["inputs"] == inputs.digest
            and path.name in record["files"]
            and all(checksum(path.parent / name) == s for name, s in record["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _inputs_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.inputs.json")


def _join(parts: tuple[str, ...]) -> str:
    return "-".join(map(to_name, parts))
