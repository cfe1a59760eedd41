"""Pushes a head with its card to the Hugging Face Hub, from where hf://user/name loads it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from featurize.io.remote import without_queries
from headtrain.export.card import write_card
from headtrain.export.fold import ExportError
from headtrain.export.head_folder import copy_head
from headtrain.head.checkpoint import TrainedHead


def push_head(
    head: TrainedHead,
    repo: str,
    *,
    private: bool = True,
    verdict: Sequence[tuple[str, str]] = (),
) -> str:
    """Upload a head as one commit of a model repository, which is created if necessary.

    Args:
        head: the head; its backbone is not uploaded.
        repo: user/name.
        private: whether a new repository is private.
        verdict: rows of the evaluation, for the card.

    Returns:
        The URI that `Critic.load` takes.

    Raises:
        ExportError: the Hub refuses, or does not answer.
    """
    api = HfApi()
    uri = f"hf://{repo}"
    use = [
        ("load", f'`Critic.load("{uri}")`, from `headtrain.scoring.critic`'),
        ("backbone", "not in this repository; `backbone=` names its place if it has moved"),
    ]
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = copy_head(head, Path(place))
            write_card(folder, head, dict(use), verdict)
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="Add a head of critic"
            )
    except HFValidationError as error:
        raise ExportError(f"push {repo!r}: not the name of a repository: user/name") from error
    except (HfHubHTTPError, OSError) as error:
        reason = without_queries(error).strip().splitlines()[0]
        raise ExportError(
            f"push {repo!r}: {reason}; set HF_TOKEN to a token that may write, or run hf auth login"
        ) from error
    return uri
