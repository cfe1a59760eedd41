"""Features of a file that is no split of a dataset: by a head's own recipe, into a store kept."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.command import load_settings
from configs.config import Config
from configs.loader import load_recorded
from configs.paths import Layout
from configs.project import open_train_store_of
from configs.terminal import set_up_logging
from featurize.data.index import DatasetIndex
from featurize.io.files import digest
from featurize.model.device import resolve_device
from featurize.run.plan import FeaturizeJob
from featurize.run.session import run_session, to_repeat
from featurize.settings import BackboneSettings, DatasetSettings
from featurize.store import FeatureStore, FeatureStoreError
from headtrain.head.checkpoint import CheckpointError, TrainedHead, load_head
from headtrain.metrics.calibration import Decision
from headtrain.scoring.provenance import Origin
from headtrain.training.decision import fit_decision

_POLICY = "models.policy"
_PLACE = ("path", "tokenizer_path", "revision")


@dataclass(frozen=True, kw_only=True)
class HeadAtHand:
    """A head, and where things lie for the command that uses it."""

    head: TrainedHead
    settings: Config
    layout: Layout
    places: tuple[BackboneSettings, ...]
    """Where its backbone may be, most likely first."""


def find_head(head: str | None, config: Path | None, overrides: Sequence[str]) -> HeadAtHand:
    """The head named, else that of the configured experiment.

    Without a config, the settings are those the head was trained with, overrides on top.

    Raises:
        ValueError: there is no such head, or the configuration cannot be used.
    """
    if config is not None or head is None:
        settings, layout = load_settings(config, list(overrides))
        trained = load_head(head or layout.checkpoint_dir)
    else:
        trained = load_head(head)
    if config is None:
        settings = load_recorded(trained.record.config, f"{trained.path}/head.json", overrides)
        layout = Layout.from_config(settings)
        set_up_logging(settings.logging.level, settings.logging.format)
    places = _places(Origin.of(trained), settings, overrides, has_config=config is not None)
    return HeadAtHand(head=trained, settings=settings, layout=layout, places=places)


def featurize_file(
    at_hand: HeadAtHand, index: DatasetIndex, *, repair: bool = False
) -> FeatureStore | None:
    """Features of an indexed file, row by row those of the index; a second call finds its store.

    The command's settings say where things lie and what computes; all else is the head's. Returns
    None in processes that are not the one to go on.

    Raises:
        ValueError: bad rows, or a backbone that is not the head's.
    """
    settings, layout = at_hand.settings, at_hand.layout
    origin = Origin.of(at_hand.head)
    found = origin.find(resolve_device(settings.runtime.device), layout.cache_dir, at_hand.places)
    identity = {
        "dataset": index.content_fingerprint,
        "recipe": found.recipe.fingerprint,
        "unit_tokens": origin.featurize.unit_tokens,
    }
    job = FeaturizeJob(
        backbone=found.settings,
        dataset=DatasetSettings(
            name="data",
            test=tuple(source.path for source in index.sources),
            max_length=origin.dataset.max_length,
            max_prompt_length=origin.dataset.max_prompt_length,
        ),
        featurize=replace(
            origin.featurize,
            workers=settings.featurize.workers,
            token_budget=max(settings.featurize.token_budget, origin.dataset.max_length),
            forward=settings.featurize.forward,
        ),
        runtime=settings.runtime,
        split="test",
        store_dir=layout.file_features_dir(digest(identity)[:12]),
        cache_dir=layout.cache_dir,
        distributed=settings.distributed,
        repair=repair,
        command=to_repeat(sys.argv[1:]),
    )
    names = ", ".join(source.name for source in index.sources[:3])
    if not run_session(job, title=f"plan: featurize {names}"):
        return None
    store = FeatureStore.open(job.store_dir, layout.cache_dir)
    found_ids, wanted_ids = (
        table["task_id"].combine_chunks() for table in (store.samples, index.table)
    )
    assert found_ids.equals(wanted_ids), "units are written in the order of the index"
    return store


def find_decision(at_hand: HeadAtHand) -> Decision:
    """What turns the head's values into probabilities: kept with it, else fitted now on train.

    Raises:
        CheckpointError: neither can be had.
    """
    head = at_hand.head
    if head.record.decision is not None:
        return head.record.decision
    try:
        train = open_train_store_of(head, at_hand.layout)
    except FeatureStoreError as error:
        raise CheckpointError(
            f"{head.path}: has no calibration (a checkpoint on the way, or of an older version),"
            " and the features it was trained on are gone; run `critic train-head --overwrite`"
            " again and take best or final"
        ) from error
    return fit_decision(train, head)


def _places(
    origin: Origin, settings: Config, overrides: Sequence[str], *, has_config: bool
) -> tuple[BackboneSettings, ...]:
    """The recorded place, and what the user names: first where the command line itself does.

    A head from elsewhere cannot allow a model's code to run: only the user's own words count.
    """
    named = settings.models.policy
    said = {text.partition("=")[0] for text in overrides}
    if not has_config and f"{_POLICY}.trust_remote_code" not in said:
        named = replace(named, trust_remote_code=False)
    recorded = replace(origin.backbone, trust_remote_code=named.trust_remote_code)
    if said & {f"{_POLICY}.{name}" for name in _PLACE}:
        return (named,)
    is_elsewhere = any(getattr(named, name) != getattr(recorded, name) for name in _PLACE)
    return (named, recorded) if has_config and is_elsewhere else (recorded,)
