"""What commands work on: the settings of a run, with its stores, heads, texts and tracker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from configs.config import Config, Layout, warn
from configs.console import set_up_logging
from configs.loader import load_config, load_recorded, to_dict, with_template_text
from configs.options import Chosen
from configs.source import ConfigError
from featurize.errors import FeatureStoreError, one_line
from featurize.settings import BackboneSettings, to_split

if TYPE_CHECKING:
    from featurize.data.index import DatasetIndex
    from featurize.data.records import Sample
    from featurize.model.source import BackboneSource
    from featurize.run.job import FeaturizeJob
    from featurize.run.plan import Choose
    from featurize.store import FeatureStore
    from featurize.store.manifest import Manifest
    from headtrain.evaluation.texts import TextSource
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.metrics.calibration import Decision
    from headtrain.tracking.tracker import Tracker


_POLICY = "models.policy"
_LOCATION = ("path", "tokenizer_path", "revision")


@dataclass(frozen=True, kw_only=True)
class Project:
    """A configuration and the files it names."""

    settings: Config
    layout: Layout

    @classmethod
    def of(cls, settings: Config) -> Self:
        """Set up logging, and read the template that the settings name.

        Raises:
            ConfigError: the template cannot be used.
        """
        set_up_logging(settings.logging.level, settings.logging.format)
        warn(settings)
        settings = replace(settings, prompt=with_template_text(settings.prompt))
        return cls(settings=settings, layout=Layout(settings))

    @property
    def run_config(self) -> dict[str, Any]:
        """The settings as JSON, as heads record them."""
        return to_dict(self.settings)

    @property
    def has_valid(self) -> bool:
        """Whether the dataset has a validation split."""
        return self.settings.dataset.validation is not None

    def open_index(self, split: str) -> "DatasetIndex":
        """The index of a split's dataset."""
        return self.index_files(self.settings.dataset.path_of(split))

    def index_files(
        self, paths: "str | Sequence[str]", *, needs_labels: bool = True
    ) -> "DatasetIndex":
        """The index of any files; without `needs_labels`, labels that are not read do no harm."""
        from featurize.data.index import DatasetIndex

        return DatasetIndex.build(
            paths,
            self.layout.cache_dir / "index",
            keeps_turns=self.settings.prompt.has_turns,
            needs_labels=needs_labels,
        )

    def featurize_job(self, split: str, **options: Any) -> "FeaturizeJob":
        """The job that makes the features of a split."""
        from featurize.run.job import FeaturizeJob

        settings = self.settings
        return FeaturizeJob(
            backbone=settings.models.policy,
            dataset=settings.dataset,
            featurize=settings.featurize,
            runtime=settings.runtime,
            split=split,
            store_dir=self.layout.features_dir(split),
            cache_dir=self.layout.cache_dir,
            distributed=settings.distributed,
            prompt=settings.prompt,
            **options,
        )

    def find_backbone(self) -> "BackboneSource":
        """The files of the backbone."""
        from featurize.model.device import resolve_device, resolve_dtype
        from featurize.model.source import find_backbone

        policy, runtime = self.settings.models.policy, self.settings.runtime
        device = resolve_device(runtime.device)
        dtype = resolve_dtype(policy.dtype, device, mixed_precision=runtime.mixed_precision)
        return find_backbone(policy, self.layout.cache_dir, dtype)

    def open_store(self, split: str) -> "FeatureStore":
        """The features of a split.

        Raises:
            ConfigError: they were made with other settings.
        """
        from featurize.store import FeatureStore

        store = FeatureStore.open(self.layout.features_dir(split), self.layout.cache_dir)
        _check_recipe(self.settings, store.path, store.manifest.recipe)
        return store

    def open_store_of(self, head: "TrainedHead", split: str) -> "FeatureStore":
        """The features of a split that a head can read: those configured, else those it records.

        Raises:
            FeatureStoreError: neither folder has features of the head's recipe.
        """
        wanted = head.record.recipe_fingerprint
        return self._find_store(
            head,
            split,
            lambda manifest: manifest.recipe_fingerprint == wanted,
            f"{head.path} reads features of recipe {wanted}, which",
        )

    def open_train_store_of(self, head: "TrainedHead") -> "FeatureStore":
        """The features the head was trained on.

        Raises:
            FeatureStoreError: they are neither where the configuration nor where the head says.
        """
        wanted = head.record.store_fingerprint
        return self._find_store(
            head,
            "train",
            lambda manifest: manifest.fingerprint == wanted,
            f"the features {head.path} was trained on ({wanted})",
        )

    def _find_store(
        self, head: "TrainedHead", split: str, is_wanted: "Callable[[Manifest], bool]", what: str
    ) -> "FeatureStore":
        """Look where a split's features may be: as configured, and as the head's run had it."""
        from pydantic import TypeAdapter, ValidationError

        from featurize.store import FeatureStore

        folders = [self.layout.features_dir(split)]
        try:
            recorded = TypeAdapter(Config).validate_python(head.record.config)
            folders.append(Layout(recorded).features_dir(split))
        except ValidationError:  # written by another version; then only the configuration counts
            pass
        folders = list(dict.fromkeys(folders))
        for folder in folders:
            try:
                store = FeatureStore.open(folder, self.layout.cache_dir)
            except FeatureStoreError:
                continue
            if is_wanted(store.manifest):
                return store
        raise FeatureStoreError(
            f"{what} are not in {' nor in '.join(map(str, folders))}; run `critic featurize --split"
            f" {split}` with the head's config"
        )

    def open_texts(self, split: str, store: "FeatureStore") -> "TextSource":
        """The texts a store was made from, if its dataset still has its samples."""
        from headtrain.evaluation.texts import TextSource

        try:
            index = self.open_index(split)
        except (ValueError, OSError) as error:
            return TextSource(why_not=one_line(error).partition("\n")[0])
        return texts_of(index, store)

    def tracking_place(self) -> tuple[str, Path | None]:
        """The address of the tracking server or local database, and the latter's artifacts."""
        from headtrain.tracking.database import to_plain_folder

        layout = self.layout
        layout.mlruns_dir.mkdir(parents=True, exist_ok=True)
        if not layout.is_tracked_locally:
            return layout.tracking_uri, None
        folder = to_plain_folder(layout.mlruns_dir)
        return f"sqlite:///{folder}/mlflow.db", folder / "artifacts"

    def make_tracker(self) -> "Tracker":
        """The tracking server or local database, and Weights & Biases if a project is set.

        Raises:
            CriticError: a project is set and wandb is not installed.
        """
        from headtrain.tracking.server import MlflowTracker
        from headtrain.tracking.waiting import WaitingTracker
        from headtrain.tracking.wandb_runs import WandbTracker

        settings, layout = self.settings, self.layout
        uri, artifact_root = self.tracking_place()

        def make() -> MlflowTracker:
            return MlflowTracker(
                uri,
                settings.mlflow.experiment,
                artifact_root=artifact_root,
                run_name=settings.experiment.name,
                tags={
                    "stage": settings.experiment.stage,
                    **dict.fromkeys(settings.experiment.tags, ""),
                },
            )

        tracker = WaitingTracker(make, layout.mlruns_dir / "waiting")
        if settings.wandb.project is None:
            return tracker
        return WandbTracker(
            tracker,
            settings.wandb.project,
            layout.mlruns_dir,
            run_name=settings.experiment.name,
            tags=[settings.experiment.stage, *settings.experiment.tags],
        )

    def select_pairs(self, split: str) -> "tuple[dict[str, Any], Choose]":
        """What selects the samples of the pairs that train-head draws, and all it depends on.

        Raises:
            ValueError: the split is not train.
        """
        from headtrain.pairs.plan import pair_planner, selection_settings

        if to_split(split) != "train":
            raise ValueError(
                f"--pairs selects the samples a head is trained on, not those of {split}; leave it "
                "out, or give --limit-problems"
            )
        drawn = (self.settings.data_sampling, self.settings.evaluation.train_holdout)
        return selection_settings(*drawn), pair_planner(*drawn)

    def find_decision(self, head: "TrainedHead") -> "Decision":
        """What turns a head's values into probabilities: kept with it, else fitted now on train.

        Raises:
            CheckpointError: it has none and its train features are gone.
        """
        from headtrain.head.checkpoint import CheckpointError
        from headtrain.training.validation import fit_decision

        if head.record.decision is not None:
            return head.record.decision
        try:
            train = self.open_train_store_of(head)
        except FeatureStoreError as error:
            raise CheckpointError(
                f"{head.path}: has no calibration (it is an intermediate checkpoint or of an older"
                " version), and the features it was trained on are gone; run `critic train-head"
                " --overwrite` again and take best or final"
            ) from error
        return fit_decision(train, head)


@dataclass(frozen=True, kw_only=True)
class HeadProject:
    """A head, the project it is used in, and the places where its backbone may be."""

    head: "TrainedHead"
    project: Project
    places: tuple[BackboneSettings, ...]
    """Most likely first."""

    @classmethod
    def load(cls, head: str | None, chosen: Chosen) -> Self:
        """Find the head named, else that of the configured experiment.

        Without --config, the settings are those the head was trained with, overrides on top.

        Raises:
            ValueError: there is no such head, or the configuration cannot be used.
        """
        from headtrain.head.checkpoint import load_head
        from headtrain.scoring.provenance import Provenance

        if chosen.config is not None or head is None:
            project = chosen.project()
            trained = load_head(project.layout.checkpoint_dir if head is None else head)
        else:
            trained = load_head(head)
        if chosen.config is None:
            name = f"{trained.path}/head.json"
            project = Project.of(load_recorded(trained.record.config, name, chosen.overrides))
        places = _places(trained, project.settings, chosen)
        # Rows are read as the head's own prompts are.
        prompt = Provenance.of(trained).prompt
        project = replace(project, settings=replace(project.settings, prompt=prompt))
        return cls(head=trained, project=project, places=places)


def _places(head: "TrainedHead", settings: Config, chosen: Chosen) -> tuple[BackboneSettings, ...]:
    """The recorded place and the one the user names; the latter first if an override names it.

    A head from elsewhere cannot allow a model's code to run: only the user's own settings can.
    """
    from headtrain.scoring.provenance import Provenance

    named = settings.models.policy
    overridden = {text.partition("=")[0] for text in chosen.overrides}
    has_config = chosen.config is not None
    if not has_config and f"{_POLICY}.trust_remote_code" not in overridden:
        named = replace(named, trust_remote_code=False)
    recorded = replace(Provenance.of(head).backbone, trust_remote_code=named.trust_remote_code)
    if overridden & {f"{_POLICY}.{name}" for name in _LOCATION}:
        return (named,)
    is_elsewhere = any(getattr(named, name) != getattr(recorded, name) for name in _LOCATION)
    return (named, recorded) if has_config and is_elsewhere else (recorded,)


def texts_of(index: "DatasetIndex", store: "FeatureStore") -> "TextSource":
    """The texts of a store's samples, if the indexed files have all of them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from headtrain.evaluation.texts import TextSource

    task_ids = index.table["task_id"].combine_chunks()
    num_gone = pc.sum(pc.invert(pc.is_in(store.samples["task_id"], value_set=task_ids))).as_py()
    if num_gone:
        return TextSource(
            why_not=f"the dataset lacks {num_gone:,} of the {store.samples.num_rows:,} samples; "
            "the features were made from another dataset"
        )

    def read(wanted: Sequence[str]) -> "list[Sample]":
        rows = pc.index_in(pa.array(wanted, task_ids.type), value_set=task_ids)
        return index.read(np.asarray(rows, np.int64))

    return TextSource(read=read)


def has_features(overrides: Sequence[str]) -> bool:
    """Whether anything was featurized with the production configuration and these overrides."""
    from featurize.store.manifest import read_manifest

    try:
        layout = Layout(load_config(None, overrides))
        return read_manifest(layout.features_dir("train")) is not None
    except (ValueError, OSError):
        return True  # the configuration itself is wrong: the error says how


def _check_recipe(config: Config, store: Path | str, recipe: Mapping[str, Any]) -> None:
    """Raise ConfigError when a store's recipe differs from the configuration's.

    What only the backbone's files can tell (its digest, layers and dtype) is left to
    `critic featurize`, which refuses a store of another fingerprint.
    """
    settings = config.featurize
    wanted: dict[str, Any] = {
        "dataset.max_length": config.dataset.max_length,
        "dataset.max_prompt_length": config.dataset.prompt_limit,
        "featurize.poolings": set(settings.poolings),
        "featurize.likelihood": settings.likelihood,
        "featurize.segments": settings.segments,
        "featurize.storage_dtype": settings.storage_dtype,
        "models.policy.weights": config.models.policy.weights,
        "prompt": config.prompt.identity,
    }
    # Recipes leave out what is usual.
    recipe = {"weights": "pretrained", "prompt": {}, "segments": None, **recipe}
    # Without the text of a tokenizer's own template.
    recipe["prompt"] = {k: v for k, v in recipe["prompt"].items() if k != "template"}
    for key, asked in wanted.items():
        found = recipe.get(key.rpartition(".")[2], asked)
        if asked != (set(found) if isinstance(asked, set) else found):
            raise ConfigError(
                f"{store}: its features were made with {key} {found!r}, the config says {asked!r};"
                " give the config they were made with, or run `critic featurize --overwrite`"
            )
