"""How the features of a head were made, as its record says; finds and opens its backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter, ValidationError

from featurize.data.encoder import SampleEncoder
from featurize.data.formats import Prompt as Statement
from featurize.data.index import DatasetIndex
from featurize.io.files import digest
from featurize.model.agreement import choose_forward, remembered_choice
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.device import choose_token_budget, resolve_device, resolve_dtype
from featurize.model.engine import Engine, Forward
from featurize.model.families.hf import PACKAGE_PREFIX
from featurize.model.forward import FeatureSpec
from featurize.model.packing import PromptGroup, group_samples
from featurize.model.source import BackboneSource, find_backbone, load_tokenizer
from featurize.run.job import FeaturizeJob
from featurize.run.recipe import Recipe, make_recipe
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    ModelsSettings,
    PromptSettings,
    RuntimeSettings,
)
from featurize.store import FeatureStore
from featurize.store.shards import is_of_segments
from headtrain.features.inputs import InputColumns
from headtrain.head.checkpoint import CheckpointError, TrainedHead

MIN_PROBE_LENGTH = 256
"""Tokens of the sequences on which the forwards are compared, if the model has no window."""


@dataclass(frozen=True, kw_only=True)
class FoundBackbone:
    """The backbone a head was trained on, found on this machine."""

    settings: BackboneSettings
    """Its `dtype` is the one in which the head's features were computed."""
    source: BackboneSource
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class OpenedBackbone:
    """What a critic needs besides its head."""

    encoder: SampleEncoder
    engine: Engine
    storage_dtype: torch.dtype
    """Of the features that the head was trained on."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the backbone knows: rows of its embeddings."""
        weight = self.engine.backbone.decoder.get_input_embeddings().weight
        return len(cast(torch.Tensor, weight))


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """The sections of a head's configuration that made its features."""

    models: ModelsSettings
    dataset: DatasetSettings
    featurize: FeaturizeSettings
    runtime: RuntimeSettings
    distributed: DistributedSettings
    prompt: PromptSettings = field(default_factory=PromptSettings)  # older heads have none


@dataclass(frozen=True, kw_only=True)
class Provenance(_Recorded):
    """The settings that made the features of a head."""

    recipe_fingerprint: str
    head: str
    """Path of the head, for messages."""
    folder: str = ""
    """Working folder of the head's run; empty if the head does not record it."""

    @classmethod
    def of(cls, head: TrainedHead) -> "Provenance":
        """Read the settings from the record of a head.

        Raises:
            CheckpointError: this version cannot read them.
        """
        try:
            found = TypeAdapter(_Recorded).validate_python(head.record.config)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise CheckpointError(
                f"{head.path}: this version cannot read how its features were made"
                f" ({where}: {error.errors()[0]['msg']}); run `critic train-head` again"
            ) from error
        return cls(
            **vars(found),
            recipe_fingerprint=head.record.recipe_fingerprint,
            head=head.path,
            folder=head.record.folder,
        )

    @property
    def backbone(self) -> BackboneSettings:
        """The backbone as the head's run named it."""
        return self.models.policy

    def find(
        self, device: torch.device, cache_dir: Path, places: Sequence[BackboneSettings] = ()
    ) -> FoundBackbone:
        """Find the head's backbone at the first of `places` that has it; default: as recorded.

        A place contributes its paths and `trust_remote_code`; a head from elsewhere must not allow
        code to run. A relative path that the head recorded starts here or, if there is nothing, in
        the folder of its run. If the head's `dtype` is auto, the one its features were computed in
        is used.

        Raises:
            ValueError: no place has it; the message is that of the first place.
        """
        first: ValueError | None = None
        for place in places or [replace(self.backbone, trust_remote_code=False)]:
            try:
                return self._find_at(self._from_run(place), device, cache_dir)
            except ValueError as error:
                first = first or self._explain(place, error)
        assert first is not None
        raise first

    def _from_run(self, place: BackboneSettings) -> BackboneSettings:
        """Let recorded relative paths start in the folder of the run if they do not exist here."""
        return replace(
            place,
            path=self._place_of(place.path, self.backbone.path),
            tokenizer_path=place.tokenizer_path
            and self._place_of(place.tokenizer_path, self.backbone.tokenizer_path),
        )

    def _place_of(self, path: str, recorded: str | None) -> str:
        there = Path(self.folder, path)
        is_gone = path == recorded and bool(self.folder) and not Path(path).exists()
        return str(there) if is_gone and there.exists() else path

    def _explain(self, place: BackboneSettings, error: ValueError) -> ValueError:
        """Say where a recorded relative path started if it leads nowhere."""
        path = place.path
        is_recorded = path == self.backbone.path and not path.startswith(PACKAGE_PREFIX)
        if not is_recorded or Path(path).is_absolute() or Path(self._from_run(place).path).exists():
            return error
        was = str(Path(self.folder, path)) if self.folder else f"{path!r} in the folder of its run"
        return CheckpointError(
            f"{error}; {self.head} was trained with the backbone {was}, which is not there: name"
            " its place now (models.policy.path)"
        )

    def _find_at(
        self, place: BackboneSettings, device: torch.device, cache_dir: Path
    ) -> FoundBackbone:
        settings = replace(
            self.backbone,
            path=place.path,
            tokenizer_path=place.tokenizer_path,
            revision=place.revision,
            trust_remote_code=place.trust_remote_code,
        )
        is_mixed = self.runtime.mixed_precision and self.distributed.mixed_precision
        usual = resolve_dtype(settings.dtype, device, mixed_precision=is_mixed)
        source = find_backbone(settings, cache_dir, usual)
        others = (torch.bfloat16, torch.float32, torch.float16)
        tried = dict.fromkeys([usual, *(others if settings.dtype == "auto" else ())])
        recipes = [
            make_recipe(source, settings, self.dataset, self.featurize, dtype, device, self.prompt)
            for dtype in tried
        ]
        for recipe in recipes:
            if recipe.fingerprint == self.recipe_fingerprint:
                named: Any = str(recipe.compute_dtype).removeprefix("torch.")
                settings = replace(settings, dtype=named)
                if recipe.compute_dtype != usual:  # a GGUF file is converted once per dtype
                    source = find_backbone(settings, cache_dir, recipe.compute_dtype)
                return FoundBackbone(settings=settings, source=source, recipe=recipe)
        raise CheckpointError(
            f"{self.head} was trained on features of recipe {self.recipe_fingerprint}, but the"
            f" backbone {place.path!r} makes recipe {recipes[0].fingerprint}: it has other weights,"
            " another tokenizer or another prompt template; name the head's own backbone"
            " (models.policy.path), or train a new head"
        )


def open_backbone(
    head: TrainedHead, places: Sequence[BackboneSettings], *, device: str, cache_dir: Path
) -> OpenedBackbone:
    """Load the backbone of a head from the first of `places` that has it.

    Raises:
        ValueError: none has it.
    """
    provenance, where = Provenance.of(head), resolve_device(device)
    found = provenance.find(where, cache_dir, places)
    spec = _narrow(found.recipe.spec, head.record.columns)
    encoder = SampleEncoder(
        provenance.prompt if spec.question else replace(provenance.prompt, question=None),
        load_tokenizer(found.source, found.settings),
        max_length=provenance.dataset.max_length,
        max_prompt_length=provenance.dataset.prompt_limit,
    )
    spec = replace(spec, answers=encoder.suffix.answers)
    loaded = load_backbone(
        found.source,
        found.settings,
        device=where,
        dtype=found.recipe.compute_dtype,
        deepest_layer=spec.deepest(found.recipe.num_layers),
        with_lm_head=bool(spec.columns),
    )
    forward = provenance.featurize.forward
    if forward == "auto":
        forward = _choose(loaded, spec, encoder, found, where, cache_dir)
    size = sum(parameter.numel() for parameter in loaded.decoder.parameters())
    budget = choose_token_budget(
        provenance.featurize.token_budget, where, size, provenance.dataset.max_length
    )
    return OpenedBackbone(
        encoder=encoder,
        engine=Engine(loaded, spec, forward, budget.tokens),
        storage_dtype=found.recipe.storage_dtype,
    )


def _narrow(spec: FeatureSpec, columns: InputColumns) -> FeatureSpec:
    """Reduce a recipe to what a head reads: layers above its deepest one need not run."""
    wanted = [name.rpartition(".") for name in columns.tensors]  # pooling, ".", layer
    return FeatureSpec(
        layers=tuple(layer for layer in spec.layers if str(layer) in {name[2] for name in wanted}),
        poolings=tuple(p for p in spec.poolings if p in {name[0] for name in wanted}),
        likelihood=columns.likelihood,
        segments=spec.segments if any(map(is_of_segments, columns.tensors)) else None,
        question="question" in {name[0] for name in wanted},
    )


def _choose(
    backbone: Backbone,
    spec: FeatureSpec,
    encoder: SampleEncoder,
    found: FoundBackbone,
    device: torch.device,
    cache_dir: Path,
) -> Forward:
    """Choose the forward, as an earlier comparison on this device did or by a new one."""
    dtype = found.recipe.compute_dtype
    window = getattr(backbone.decoder.config, "sliding_window", None) or 0
    return remembered_choice(
        cache_dir / "forwards",
        lambda: choose_forward(backbone, spec, _probe(encoder, window), dtype),
        backbone=found.source.digest,
        spec=spec,
        device=device,
        dtype=dtype,
    ).forward


def _probe(encoder: SampleEncoder, window: int) -> list[PromptGroup]:
    """Make up texts that are longer than a sliding window of `window` tokens."""
    num_lines = max(MIN_PROBE_LENGTH, window + 64)  # at least a token per line
    groups: list[PromptGroup] = []
    for number, prompt in enumerate(("Add two numbers.", "Read a list; print its largest item.")):
        texts = ["print(a + b)", "".join(f"x = {line}\n" for line in range(num_lines >> number))]
        found = encoder.encode(Statement(prompt), texts)
        pairs = ((found.prompt.ids, output.ids) for output in found.outputs)
        suffix = encoder.suffix
        groups += group_samples(pairs, end=suffix.end, question=suffix.question).groups
    return groups


def plan_file(
    head: TrainedHead,
    index: DatasetIndex,
    *,
    places: Sequence[BackboneSettings],
    featurize: FeaturizeSettings,
    runtime: RuntimeSettings,
    distributed: DistributedSettings,
    store_of: Callable[[str], Path | str],
    cache_dir: Path,
    repair: bool = False,
    command: str = "",
) -> FeaturizeJob:
    """Plan features of a file that is not a split of a dataset, by the recipe of a head.

    The settings given here say where things are and what computes; all else is the head's.
    `store_of` gives the folder of a store by a digest of what it is made of.

    Raises:
        ValueError: no backbone that is the head's.
    """
    recorded = Provenance.of(head)
    found = recorded.find(resolve_device(runtime.device), cache_dir, places)
    identity = {
        "dataset": index.content_fingerprint,
        "recipe": found.recipe.fingerprint,
        "unit_tokens": recorded.featurize.unit_tokens,
    }
    budget = featurize.token_budget and max(featurize.token_budget, recorded.dataset.max_length)
    return FeaturizeJob(
        backbone=found.settings,
        dataset=DatasetSettings(
            name="data",
            test=tuple(source.path for source in index.sources),
            max_length=recorded.dataset.max_length,
            max_prompt_length=recorded.dataset.max_prompt_length,
        ),
        prompt=recorded.prompt,
        featurize=replace(
            recorded.featurize,
            workers=featurize.workers,
            token_budget=budget,
            forward=featurize.forward,
        ),
        runtime=runtime,
        split="test",
        store_dir=store_of(digest(identity)[:12]),
        cache_dir=cache_dir,
        distributed=distributed,
        needs_labels=index.reader.needs_labels,
        repair=repair,
        command=command,
    )


def open_file_store(job: FeaturizeJob, index: DatasetIndex) -> FeatureStore:
    """Open the store of a finished job of `plan_file`; its rows are those of the index."""
    store = FeatureStore.open(job.store_dir, job.cache_dir)
    found_ids, wanted_ids = (
        table["task_id"].combine_chunks() for table in (store.samples, index.table)
    )
    assert found_ids.equals(wanted_ids), "units are written in the order of the index"
    return store
