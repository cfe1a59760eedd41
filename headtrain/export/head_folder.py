"""Writes a head for others: a folder that is complete or absent, a card, and the Hub."""

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

from featurize.data.prompt import TEMPLATE
from featurize.errors import CriticError
from featurize.io.files import atomic_path, naming_errors, read_json, write_json
from featurize.io.remote import without_queries
from headtrain.evaluation.results import Evaluation
from headtrain.head.checkpoint import RECORD_FILE, WEIGHTS_FILE, TrainedHead

CARD_FILE = "README.md"


class ExportError(CriticError):
    """A head that cannot be exported as asked."""


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
            with naming_errors(out):
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
        names = set(content) if isinstance(content, dict) else set()
        if "critic" in names or {"template", "response_mark"} <= names:
            return True
    with contextlib.suppress(OSError, ValueError):
        return "mlflow_model.py" in (folder / "MLmodel").read_text(encoding="utf-8")
    return False


def copy_head(head: TrainedHead, folder: Path) -> Path:
    """Write a head with metadata in its weights; values are the same, and `load_head` reads it.

    The metadata names the format, the head's type and inputs, and the fingerprints of recipe and
    features. The working folder of the run is left out, because it says nothing elsewhere. The
    distance to train is copied if it was saved.
    """
    record = head.record
    metadata = {
        "format": "pt",
        "critic_head_type": record.head_type,
        "critic_inputs": ",".join([*record.tensors, *(["likelihood"] * record.likelihood)]),
        "critic_num_members": str(record.num_members),
        "critic_recipe_fingerprint": record.recipe_fingerprint,
        "critic_store_fingerprint": record.store_fingerprint,
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(head.model.saved_state(), metadata)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    if (distance := head.read_distance()) is not None:
        distance.write(folder, checksum)
    copied = dataclasses.replace(record, weights_checksum=checksum, folder="")
    write_json(folder / RECORD_FILE, dataclasses.asdict(copied))
    return folder


def write_card(
    folder: Path,
    head: TrainedHead,
    about: Mapping[str, Any],
    verdict: Sequence[tuple[str, str]] = (),
) -> None:
    """Write README.md; `verdict` has rows of the evaluation, `about` rows on the files beside it.

    The licence is left open: it depends on the backbone and the data.
    """
    record = head.record
    metrics = [(name, f"{value:.4f}") for name, value in sorted(record.metrics.items())]
    backbone = record.config.get("models", {}).get("policy", {}).get("name", "")
    parts = [
        "---\nlicense: other\nlicense_name: to-be-chosen\n"
        "tags:\n- critic\n- reward-model\npipeline_tag: text-classification\n---\n",
        "# A critic of code\n",
        "It scores solutions of a problem: a higher value is more likely correct. Compare values"
        " within a problem only.\n",
        _table("How it is used", list(about.items())),
        _table("Evaluation", verdict or [("not evaluated", "run `critic eval` before `push`")]),
        _table("Validation during training", metrics or [("none", "")]),
        _table(
            "How it was made",
            [
                ("backbone", backbone),
                ("head", f"{record.head_type}, {record.num_members} member(s)"),
                ("inputs", ", ".join([*record.tensors, *(["likelihood"] * record.likelihood)])),
                ("steps", record.step),
                ("feature recipe", record.recipe_fingerprint),
                ("feature store", record.store_fingerprint),
                *[(f"pairs: {name}", value) for name, value in record.pairs.items()],
            ],
        ),
        "## Prompt\n\nPrompt and output are tokenised apart and joined.\n",
        f"```text\n{TEMPLATE}```\n",
        "## Licence\n\nNot chosen here: it depends on the backbone and on the data. Set `license`"
        " above.\n",
    ]
    (folder / CARD_FILE).write_text("\n".join(parts), encoding="utf-8")


def verdict_rows(evaluation: Evaluation, split: str) -> list[tuple[str, str]]:
    """Take the rows of a card from an evaluation: the head, its shortcuts, the margin."""
    rows = [
        (f"{split}: {name}, accuracy over problems", str(judge["accuracy_over_problems"]))
        for name, judge in evaluation.splits[split].judges.items()
    ]
    verdict = evaluation.details[split].verdict if split in evaluation.details else None
    if verdict is not None:
        margin = verdict.margin["accuracy_over_problems"]
        rows.append((f"{split}: head minus {verdict.best_shortcut}", str(margin)))
    return rows


def _table(title: str, rows: Sequence[tuple[str, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"## {title}\n", "| | |", "| --- | --- |", *lines, ""])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def push_head(
    head: TrainedHead,
    repo: str,
    *,
    private: bool = True,
    verdict: Sequence[tuple[str, str]] = (),
) -> str:
    """Upload a head, without its backbone, as one commit; return the URI that `Critic.load` takes.

    The repository (user/name) is created if necessary; `verdict` has rows for the card.

    Raises:
        ExportError: the Hub refuses, or does not answer.
    """
    if repo.count("/") != 1:  # the Hub would take a name alone, which no URI can have
        raise ExportError(f"push {repo!r}: not the name of a repository: user/name")
    uri = f"hf://{repo}"
    use = [
        ("load", f'`Critic.load("{uri}")`, from `headtrain.scoring.critic`'),
        ("backbone", "not in this repository; `backbone=` names its place if it has moved"),
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = copy_head(head, Path(place))
        write_card(folder, head, dict(use), verdict)
        with _one_line_errors(repo):
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="Add a head of critic"
            )
    return uri


@contextlib.contextmanager
def _one_line_errors(repo: str) -> Iterator[None]:
    """Turn errors of the Hub into an ExportError with a remedy."""
    try:
        yield
    except HFValidationError as error:
        raise ExportError(f"push {repo!r}: not the name of a repository: user/name") from error
    except (HfHubHTTPError, OSError) as error:
        reason = without_queries(error).strip().splitlines()[0]
        raise ExportError(
            f"push {repo!r}: {reason}; set HF_TOKEN to a token that may write, or run hf auth login"
        ) from error
    except Exception as error:  # NOTE: the HTTP library's own, which differs between versions
        raise ExportError(
            f"push {repo!r}: the Hub does not answer ({without_queries(error).strip()}); check the"
            " network, and run the same command again"
        ) from error
