"""The commands that publish a head: `critic export` and `critic push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.console import console, refuse_torchrun, rows_table
from configs.options import Chosen

if TYPE_CHECKING:
    from configs.project import HeadProject
    from headtrain.head.checkpoint import TrainedHead


def export(
    chosen: Chosen,
    out: Path,
    to: Literal["transformers", "mlflow"] = "transformers",
    head: str | None = None,
    custom: bool = False,
    distil: bool = False,
    register: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a critic in a form that transformers, vLLM or MLflow load.

    A linear head on the last token of the last layer becomes a plain ForSequenceClassification;
    any other head needs trust_remote_code, which runs the code in the exported folder.
    """
    refuse_torchrun("export")
    _refuse_unfit_options(to, is_custom=custom, register=register)
    from configs.commands import training
    from configs.project import HeadProject

    opened = HeadProject.load(head, chosen)
    trained = training.distil(opened, chosen, overwrite=overwrite) if distil else opened.head
    rows = _export_head(
        opened, trained, out, to, register=register, is_custom=custom, overwrite=overwrite
    )
    console().print(rows_table(f"{trained.path} for {to} in {out}", rows))


def _refuse_unfit_options(to: str, *, is_custom: bool, register: str | None) -> None:
    """Raise ValueError for options of the other form."""
    if is_custom and to != "transformers":
        raise ValueError(f"--custom is for --to transformers, not {to}; leave it out")
    if register is not None and to != "mlflow":
        raise ValueError(f"--register {register!r} is for --to mlflow, not {to}; leave it out")
    if register == "":
        raise ValueError("--register '' names no model; give a name, or leave it out")


def _export_head(
    opened: "HeadProject",
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


def push(chosen: Chosen, repo: str, head: str | None = None, public: bool = False) -> None:
    """Upload a head with a model card to the Hugging Face Hub."""
    from configs.project import HeadProject
    from headtrain.evaluation.files import read_evaluation, results_dir
    from headtrain.export.head_folder import push_head, verdict_rows

    opened = HeadProject.load(head, chosen)
    layout = opened.project.layout
    folder = results_dir(opened.head.path, layout.checkpoint_dir, layout.evaluation_dir)
    verdict = [
        row
        for split in ("valid", "test")
        if (folder / f"{split}.json").exists()
        for row in verdict_rows(read_evaluation(folder / f"{split}.json"), split)
    ]
    uri = push_head(opened.head, repo, private=not public, verdict=verdict)
    console().print(f"pushed {opened.head.path} to {uri}", soft_wrap=True)
    if not verdict:
        console().print("note: no evaluation found, so the card has none; run `critic eval` first")
