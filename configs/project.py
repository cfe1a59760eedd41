"""What the commands work on: the settings of a run, its stores, heads, texts and tracker."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from configs.config import Config
from configs.console import set_up_logging
from configs.loader import load_config, to_dict
from configs.notes import warn
from configs.paths import Layout
from configs.source import ConfigError
from featurize.errors import FeatureStoreError, one_line
from featurize.settings import PromptSettings, to_split

if TYPE_CHECKING:
    from featurize.data.index import DatasetIndex
    from featurize.data.records import Sample
    from featurize.run.job import FeaturizeJob
    from featurize.run.plan import Choose
    from featurize.store import FeatureStore
    from headtrain.evaluation.texts import TextSource
    from headtrain.head.checkpoint import TrainedHead
    from headtrain.metrics.calibration import Decision
    from headtrain.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class Project:
    """A configuration and the files it names."""

    settings: Config
    layout: Layout

    @classmethod
    def load(cls, config: Path | None, overrides: Sequence[str] | None) -> Self:
        """Read a configuration file with overrides on top, and set up logging.

        Raises:
            ConfigError: one line for each problem.
        """
        return cls.of(load_config(config, overrides or []))

    @classmethod
    def of(cls, settings: Config) -> Self:
        """The project of settings that are loaded already."""
        set_up_logging(settings.logging.level, settings.logging.format)
        warn(settings)
        settings = replace(settings, prompt=_with_template_text(settings.prompt))
        return cls(settings=settings, layout=Layout.from_config(settings))

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
        folders = self._folders_of(head, split)
        for store in self._stores_in(folders):
            if store.manifest.recipe_fingerprint == wanted:
                return store
        raise FeatureStoreError(
            f"{head.path} reads features of recipe {wanted}, which neither "
            f"{' nor '.join(map(str, folders))} has; run `critic featurize --split {split}` with"
            " the head's config"
        )

    def open_train_store_of(self, head: "TrainedHead") -> "FeatureStore":
        """The features the head was trained on.

        Raises:
            FeatureStoreError: they are neither where the configuration nor where the head says.
        """
        folders = self._folders_of(head, "train")
        for store in self._stores_in(folders):
            if store.manifest.fingerprint == head.record.store_fingerprint:
                return store
        raise FeatureStoreError(
            f"the features {head.path} was trained on ({head.record.store_fingerprint}) are not in "
            f"{' nor in '.join(map(str, folders))}; run `critic featurize --split train` with the "
            "head's config"
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
        return f"sqlite:///{folder}/mlflow.db", folder / layout.artifacts_dir.name

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

    @property
    def selection_settings(self) -> dict[str, Any]:
        """All that the selection of `pair_planner` depends on, apart from the dataset."""
        from headtrain.pairs.plan import selection_settings

        settings = self.settings
        return selection_settings(settings.data_sampling, settings.evaluation.train_holdout)

    def pair_planner(self, split: str) -> "Choose":
        """What selects the samples of the pairs that train-head draws with these settings.

        Raises:
            ValueError: the split is not train.
        """
        from headtrain.pairs.plan import pair_planner

        if to_split(split) != "train":
            raise ValueError(
                f"--pairs selects the samples a head is trained on, not those of {split}; leave it "
                "out, or give --limit-problems"
            )
        settings = self.settings
        return pair_planner(settings.data_sampling, settings.evaluation.train_holdout)

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

    def _folders_of(self, head: "TrainedHead", split: str) -> "list[Path | str]":
        """Where a split's features may be: as configured, and as the head's run had it."""
        from pydantic import TypeAdapter, ValidationError

        folders = [self.layout.features_dir(split)]
        try:
            recorded = TypeAdapter(Config).validate_python(head.record.config)
            folders.append(Layout.from_config(recorded).features_dir(split))
        except ValidationError:  # written by another version; then only the configuration counts
            pass
        return list(dict.fromkeys(folders))

    def _stores_in(self, folders: "Sequence[Path | str]") -> "Iterator[FeatureStore]":
        from featurize.store import FeatureStore

        for folder in folders:
            try:
                yield FeatureStore.open(folder, self.layout.cache_dir)
            except FeatureStoreError:
                continue


def _with_template_text(prompt: PromptSettings) -> PromptSettings:
    """Put the text of a template in place of its file, so that heads and stores record the text.

    Raises:
        ConfigError: the file cannot be read.
    """
    template = prompt.template
    if template is None or "{" in template or "\n" in template:
        return prompt
    try:
        text = Path(template).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"prompt.template: {template!r} cannot be read ({one_line(error)}); name the file of a"
            " Jinja chat template"
        ) from error
    if "{" not in text:
        raise ConfigError(
            f"prompt.template: {template!r} has no {{{{ }}}} or {{% %}}, so every prompt would be"
            " the same; name the file of a Jinja chat template"
        )
    return replace(prompt, template=text)


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
        layout = Layout.from_config(load_config(None, overrides))
        return read_manifest(layout.features_dir("train")) is not None
    except (ValueError, OSError):
        return True  # the configuration itself is wrong: the error says how


def command_to_repeat(arguments: Sequence[str] | None = None) -> str:
    """This process's command without the options that start anew or stop early.

    It is kept with the store, so the address of a tracking server, which may hold a password, is
    left out.
    """
    import shlex

    once = ("--overwrite", "--plan-only", "--repair", "--debug")
    words = [word for word in (arguments or sys.argv[1:]) if word not in once]
    for place in reversed([at for at, word in enumerate(words) if word.startswith("mlflow.")]):
        del words[place - 1 : place + 1]
    return shlex.join(["critic", *words])


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
    recipe = {
        "weights": "pretrained",
        "prompt": {},
        "segments": None,
        **recipe,
    }  # recipes leave out what is usual
    of_files = ("template",)  # the text of a tokenizer's own
    recipe["prompt"] = {k: v for k, v in recipe["prompt"].items() if k not in of_files}
    for key, asked in wanted.items():
        found = recipe.get(key.rpartition(".")[2], asked)
        if asked != (set(found) if isinstance(asked, set) else found):
            raise ConfigError(
                f"{store}: its features were made with {key} {found!r}, the config says {asked!r};"
                " give the config they were made with, or run `critic featurize --overwrite`"
            )
