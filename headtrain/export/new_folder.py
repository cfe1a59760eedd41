"""A folder that appears when it is complete, in place of the export that was there."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from featurize.io.files import read_json
from headtrain.export.fold import ExportError


@contextlib.contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `out`; without an error it takes its place in the end.

    Raises:
        ExportError: `out` exists without `overwrite`, or is not what an export made; the disk is
            full.
    """
    _check_place(out, overwrite)
    whole = out.resolve()
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=whole.parent, prefix=f".{whole.name}-") as place:
        folder = Path(place) / whole.name
        folder.mkdir()
        try:
            yield folder
        except SafetensorError as error:
            raise ExportError(f"--out {out}: {error}; make room and rerun") from error
        if whole.exists():
            whole.rename(Path(place) / "old")
        folder.rename(whole)


def _check_place(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise ExportError(f"--out {out}: exists; name another folder, or give --overwrite")
    if not out.is_dir() or not (_is_export(out) or not any(out.iterdir())):
        raise ExportError(
            f"--out {out}: is not what `critic export` wrote, so --overwrite does not delete it;"
            " name another folder"
        )


def _is_export(folder: Path) -> bool:
    """Whether a folder is an export to transformers or MLflow."""
    with contextlib.suppress(OSError, ValueError):
        content = read_json(folder / "config.json")
        if "critic" in content or {"template", "response_mark"} <= content.keys():
            return True
    with contextlib.suppress(OSError, ValueError):
        return "mlflow_model.py" in (folder / "MLmodel").read_text(encoding="utf-8")
    return False
