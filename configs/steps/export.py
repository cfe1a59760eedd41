"""Steps of `critic export` and `critic push`: a head in a form for others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.head_project import HeadProject

if TYPE_CHECKING:
    from headtrain.head.checkpoint import TrainedHead


def export_head(
    opened: HeadProject,
    head: "TrainedHead",
    out: Path,
    to: str,
    *,
    register: str | None,
    is_custom: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Write a head for transformers or mlflow into a folder; returns rows that describe it."""
    from featurize.model.device import resolve_device
    from headtrain.scoring.provenance import Provenance

    cache_dir = opened.project.layout.cache_dir
    found = Provenance.of(head).find(resolve_device("cpu"), cache_dir, opened.places)
    if to == "mlflow":
        from headtrain.export.mlflow_folder import register_mlflow_model, save_mlflow_model

        place = save_mlflow_model(head, found.settings, out, overwrite=overwrite)
        rows = {"load": f"mlflow.pyfunc.load_model({str(place)!r})"}
        if register is not None:
            rows["registered"] = register_mlflow_model(
                head,
                found.settings,
                register,
                tracking_uri=opened.project.tracking_place()[0],
                experiment=opened.project.settings.mlflow.experiment,
            )
        return rows
    from headtrain.export.transformers_folder import export_to_transformers

    exported = export_to_transformers(head, found, out, is_custom=is_custom, overwrite=overwrite)
    return exported.describe()


def push(opened: HeadProject, repository: str, *, private: bool) -> tuple[str, bool]:
    """Upload a head with its card; returns its address and whether evaluations are on the card."""
    from headtrain.evaluation.files import read_evaluation, results_dir
    from headtrain.export.head_folder import push_head, verdict_rows

    layout = opened.project.layout
    folder = results_dir(opened.head.path, layout.checkpoint_dir, layout.evaluation_dir)
    verdict = [
        row
        for split in ("valid", "test")
        if (folder / f"{split}.json").exists()
        for row in verdict_rows(read_evaluation(folder / f"{split}.json"), split)
    ]
    return push_head(opened.head, repository, private=private, verdict=verdict), bool(verdict)
