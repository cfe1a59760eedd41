"""The plan of a featurize job: its recipe, units, size and fingerprint."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from featurize.data.encoder import SampleEncoder
from featurize.data.index import DatasetIndex
from featurize.data.pairless import why_no_pairs
from featurize.data.plain_text import PlainText
from featurize.data.prompt import TEMPLATE
from featurize.data.token_counts import (
    count_tokens,
    counts_of,
    counts_path,
    find_counts,
    num_distinct,
    unique_tokens,
    with_counts,
    write_counts,
)
from featurize.errors import DataError
from featurize.io.files import digest
from featurize.model.budget import TokenBudget, choose_token_budget
from featurize.model.device import resolve_device, resolve_dtype
from featurize.model.families.files import model_files
from featurize.model.limits import (
    check_architecture,
    check_likelihood,
    check_positions,
    check_vocabulary,
    count_parameters,
)
from featurize.model.packing import plan_units
from featurize.model.placement import describe_attention
from featurize.model.sharing import check_tensor_parallel
from featurize.model.source import (
    BackboneSource,
    find_backbone,
    load_tokenizer,
    read_backbone_config,
)
from featurize.model.weight_headers import check_weights
from featurize.run.job import RARE_COUNTS, SHARED_IDS, FeaturizeJob
from featurize.run.recipe import Recipe, make_recipe
from featurize.run.selection import Choose, Selection, fingerprint_of, select
from featurize.settings import (
    DatasetSettings,
)
from featurize.store import (
    SHARED_IDS_REMEDY,
    Manifest,
    SharedIds,
    find_shared_ids,
    lost_files,
    mark_statements,
    read_manifest,
    stored_as,
)

logger = logging.getLogger(__name__)

CHARS_PER_TOKEN = 3
"""For sizing units before anything is tokenised; programs run from 2.5 to 3.5."""


@dataclass(frozen=True, kw_only=True)
class FeaturizePlan:
    """What will be done, and its size; made from the index and the backbone's files alone."""

    job: FeaturizeJob
    selection: Selection | None
    recipe: Recipe
    source: BackboneSource
    index: DatasetIndex = field(repr=False)
    units: tuple[tuple[int, int], ...]  # [start, stop) rows of the index
    num_read: int  # samples in the files
    num_pairs: int | None  # planned, where only the samples of pairs are featurized
    counted_tokens: int | None  # to compute, where an audit has counted them
    fingerprint: str
    finished: Manifest | None  # of the same fingerprint: there is nothing to do
    token_budget: TokenBudget  # of one forward pass
    attention: str  # what runs where, in one line
    shared_ids: SharedIds | None = None  # problem ids with several statements
    num_suffix: int = 0  # tokens that follow each output
    imported: Mapping[str, Any] | None = None  # where features come from that are not computed

    def describe(self) -> dict[str, Any]:
        """The lines of the plan, and what it will cost."""
        tokens, rows = self.estimated_tokens, len(self.index)
        return {
            "samples read": self.num_read,
            "not selected": self.num_read - rows,
            **({} if self.num_pairs is None else {"pairs planned": self.num_pairs}),
            "to featurize": rows,
            "problems": self.index.num_problems,
            **({RARE_COUNTS[SHARED_IDS]: self.shared_ids.num_problems} if self.shared_ids else {}),
            "units of work": len(self.units),
            "tensors": ", ".join(self.recipe.spec.tensor_names)
            + (" and likelihood" if self.recipe.spec.likelihood else "")
            + (" and answers" if self.recipe.spec.question else ""),
            "backbone": f"{self.job.backbone.name}, {self.recipe.fields['compute_dtype']},"
            f" {self.recipe.spec.deepest(self.recipe.num_layers)} of"
            f" {self.recipe.num_layers} layers",
            "attention": self.attention,
            "a forward pass": str(self.token_budget),
            "tokens, about" if self.counted_tokens is None else "tokens, counted": tokens,
            "store, about": f"{rows * self.bytes_per_row / 1e6:,.0f} MB",
            "goes to": str(self.job.store_dir),
        }

    def to_import(self, is_kept: np.ndarray, origin: Mapping[str, Any]) -> "FeaturizePlan":
        """Return the plan of importing the features of some samples, bool [rows], from `origin`.

        Its fingerprint differs from that of computing them.
        """
        index = self.index.take(is_kept)
        identity = {**_identity(self.recipe, index, self.job), "imported": dict(origin)}
        fingerprint = digest(identity)
        return replace(
            self,
            index=index,
            units=tuple(_cut_units(index, self.job.featurize.unit_tokens)),
            fingerprint=fingerprint,
            finished=_find_finished(self.job, fingerprint),
            counted_tokens=_counted_tokens(index, self.job.dataset),
            shared_ids=find_shared_ids(index.table),
            imported=origin,
        )

    def check_samples(self, *, strict: bool) -> None:
        """Warn of samples that no pair can be made of, and of shared problem ids.

        With `strict`, problem ids that several statements share are refused.

        Raises:
            DataError: as said.
        """
        if self.job.needs_labels and (reason := why_no_pairs(self.index)):
            logger.warning("%s", reason)
        if self.shared_ids is None:
            return
        places = " and ".join(map(self.index.location, self.shared_ids.rows))
        message = f"{self.shared_ids} ({places}); {SHARED_IDS_REMEDY}"
        if strict:
            raise DataError(message)
        logger.warning("%s", message)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a feature row in all tensors of the store."""
        recipe = self.recipe
        return sum(
            width * stored_as(name, recipe.storage_dtype).itemsize
            for name, width in recipe.spec.widths(recipe.hidden_size).items()
        )

    @property
    def memory_bytes(self) -> int:
        """What a process on the CPU may need: the weights while they are converted, and a pack."""
        weights = sum(file.stat().st_size for file in model_files(self.source.folder))
        return 2 * weights + (1 << 30)

    @property
    def estimated_tokens(self) -> int:
        """Tokens to compute, each prompt once: counted, or from the number of characters."""
        suffixes = self.num_suffix * num_distinct(self.index.table) if self.num_suffix else 0
        if self.counted_tokens is not None:
            return self.counted_tokens + suffixes
        chars = _group_chars(self.index, group_starts(self.index), self.job.dataset)
        return int(chars.sum()) // CHARS_PER_TOKEN + suffixes


def plan_featurize(job: FeaturizeJob, choose: Choose | None = None) -> FeaturizePlan:
    """Reads and checks everything that can be known before the backbone is loaded.

    `choose` plans pairs over the dataset, of which only the samples are featurized.

    Raises:
        ValueError: bad data, an unreadable backbone, contradicting settings.
    """
    _check_budget(job)
    if job.distributed.is_shared and job.backbone.quantization is not None:
        raise ValueError(
            f"models.policy.quantization {job.backbone.quantization!r} and a backbone shared among"
            " devices contradict; set it to null, or distributed.shard_backbone to false and"
            " distributed.tensor_parallel_size to 1"
        )
    if job.distributed.is_shared and job.backbone.weights == "random":
        raise ValueError(
            "models.policy.weights 'random' and a backbone shared among devices contradict: it is"
            " drawn as a whole; set distributed.shard_backbone to false and"
            " distributed.tensor_parallel_size to 1"
        )
    device = resolve_device(job.runtime.device)
    dtype = resolve_dtype(
        job.backbone.dtype,
        device,
        mixed_precision=job.runtime.mixed_precision and job.distributed.mixed_precision,
    )
    paths = job.dataset.path_of(job.split)
    index = DatasetIndex.build(
        paths,
        job.cache_dir / "index",
        keeps_turns=job.prompt.has_turns,
        needs_labels=job.needs_labels,
    )
    num_read = len(index)
    source = find_backbone(job.backbone, job.cache_dir, dtype)
    _refuse_shared_adapter(job, source)
    recipe = make_recipe(
        source, job.backbone, job.dataset, job.featurize, dtype, device, job.prompt
    )
    index = with_counts(index, job.cache_dir, source.tokenizer_digest, recipe.prompt)
    if job.limit_problems is not None:
        index = index.take_problems(job.limit_problems)
    shared_ids = find_shared_ids(index.table)
    index = replace(index, table=mark_statements(index.table))
    config = read_backbone_config(source, job.backbone)
    check_tensor_parallel(config, job.distributed.tensor_parallel_size)
    num_suffix = _check_limits(job, source, config)
    _check_budget(job, num_suffix)
    selection = None
    if choose is not None:
        selection = choose(
            index.table, functools.partial(_count_outputs, index, source, job, recipe)
        )
        index = select(index, selection)
    pairs = selection and selection.pairs
    identity = _identity(recipe, index, job)
    # NOTE: only where there is one, so that whole stores keep the fingerprint they had.
    fingerprint = digest(identity | ({"pairs": fingerprint_of(pairs)} if pairs else {}))
    return FeaturizePlan(
        job=job,
        selection=selection,
        recipe=recipe,
        source=source,
        index=index,
        units=tuple(_cut_units(index, job.featurize.unit_tokens)),
        num_read=num_read,
        num_pairs=len(pairs.correct) if pairs else None,
        counted_tokens=_counted_tokens(index, job.dataset),
        fingerprint=fingerprint,
        finished=_find_finished(job, fingerprint),
        token_budget=_choose_budget(job, config, device, num_suffix),
        attention=describe_attention(
            config,
            device,
            dtype,
            forward=job.featurize.forward,
            max_length=job.dataset.max_length + num_suffix,
        ),
        shared_ids=shared_ids,
        num_suffix=num_suffix,
    )


def _identity(recipe: Recipe, index: DatasetIndex, job: FeaturizeJob) -> dict[str, Any]:
    """What the fingerprint of a store is made of."""
    return {
        "recipe": recipe.fingerprint,
        "dataset": index.content_fingerprint,
        "unit_tokens": job.featurize.unit_tokens,
    }


def _check_budget(job: FeaturizeJob, num_suffix: int = 0) -> None:
    """Raise ValueError if the longest sample does not fit into the budget that is asked for."""
    asked, longest = job.featurize.token_budget, job.dataset.max_length + num_suffix
    if asked is not None and asked < longest:
        more = f" and the {num_suffix} tokens after an output" if num_suffix else ""
        raise ValueError(
            f"featurize.token_budget {asked} is below dataset.max_length"
            f" {job.dataset.max_length}{more}: the longest sample would not fit; raise it"
        )


def _choose_budget(
    job: FeaturizeJob, config: PreTrainedConfig, device: torch.device, num_suffix: int
) -> TokenBudget:
    """The token budget of the run; the backbone is measured only where its size decides."""
    asked, is_cuda = job.featurize.token_budget, device.type == "cuda"
    size = count_parameters(config, job.backbone) if asked is None and is_cuda else None
    return choose_token_budget(asked, device, size, job.dataset.max_length + num_suffix)


def _refuse_shared_adapter(job: FeaturizeJob, source: BackboneSource) -> None:
    """Raise ValueError for an adapter that no device could merge into its part of the model."""
    if source.adapter is not None and job.distributed.is_shared:
        raise ValueError(
            f"{source.adapter.config} describes an adapter, and a backbone shared among devices is"
            " never whole on one of them; merge it first (peft's merge_and_unload, then"
            " save_pretrained), or set distributed.shard_backbone to false and"
            " distributed.tensor_parallel_size to 1"
        )


def _check_limits(job: FeaturizeJob, source: BackboneSource, config: PreTrainedConfig) -> int:
    """Check what the backbone can take, before any weight is read.

    Returns the number of tokens that follow each output.
    """
    backbone = job.backbone
    check_architecture(config, backbone)
    check_weights(source.folder, config, backbone)
    if job.featurize.likelihood or job.prompt.question is not None:
        check_likelihood(config, backbone)
    num_suffix = _check_tokenizer(job, source, config)
    check_positions(config, backbone, job.dataset.max_length + num_suffix)
    return num_suffix


def _check_tokenizer(job: FeaturizeJob, source: BackboneSource, config: PreTrainedConfig) -> int:
    """Check the tokenizer, and the prompt's settings with it; return as `_check_limits`."""
    tokenizer = load_tokenizer(source, job.backbone)
    check_vocabulary(PlainText(tokenizer).largest_id(), config, job.backbone)
    if not job.prompt.identity:
        return 0
    return len(make_encoder(job, tokenizer).suffix.ids)


def make_encoder(job: FeaturizeJob, tokenizer: PreTrainedTokenizerBase) -> SampleEncoder:
    """The encoder of a job.

    Raises:
        CriticError: the tokenizer cannot do what the settings of the prompt ask.
    """
    return SampleEncoder(
        job.prompt,
        tokenizer,
        max_length=job.dataset.max_length,
        max_prompt_length=job.dataset.prompt_limit,
    )


def _find_finished(job: FeaturizeJob, fingerprint: str) -> Manifest | None:
    """The manifest of a store that has nothing left to do, as far as file sizes tell."""
    if job.repair:
        return None
    manifest = read_manifest(job.store_dir)
    if manifest is None or manifest.fingerprint != fingerprint:
        return None
    return None if lost_files(job.store_dir, manifest) else manifest


def _counted_tokens(index: DatasetIndex, dataset: DatasetSettings) -> int | None:
    """Tokens to compute, as an earlier count has them; None where there was none."""
    counts = counts_of(index.table)
    if counts is None:
        return None
    return unique_tokens(index.table, counts.cut(dataset.max_length, dataset.prompt_limit))


def _count_outputs(
    index: DatasetIndex, source: BackboneSource, job: FeaturizeJob, recipe: Recipe
) -> np.ndarray:
    """Tokens of every output as the store will have them, counted now if need be: [rows]."""
    counts = counts_of(index.table)
    if counts is None:
        path = counts_path(job.cache_dir, index, source.tokenizer_digest, recipe.prompt)
        counts = find_counts(path, index)
    if counts is None:
        logger.info("counting the tokens of %d samples", len(index))
        counts = count_tokens(index, load_tokenizer(source, job.backbone), prompt=job.prompt)
        write_counts(path, counts)
    return counts.cut(job.dataset.max_length, job.dataset.prompt_limit).outputs


def group_starts(index: DatasetIndex) -> np.ndarray:
    """Rows at which a new prompt begins, and the number of rows: int64 [prompts + 1]."""
    keys = index.table["prompt_key"].combine_chunks()
    is_new = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(index)]]).astype(np.int64)


def _cut_units(index: DatasetIndex, unit_tokens: int) -> list[tuple[int, int]]:
    """Rows [start, stop) of each unit: consecutive whole problems of about `unit_tokens`."""
    starts = group_starts(index)
    sizes = _group_chars(index, starts) // CHARS_PER_TOKEN
    return [
        (int(starts[first]), int(starts[last]))
        for first, last in plan_units(sizes.tolist(), unit_tokens)
    ]


def _group_chars(
    index: DatasetIndex, starts: np.ndarray, cut: DatasetSettings | None = None
) -> np.ndarray:
    """Characters of each prompt and of all its distinct outputs: int64 [prompts].

    `cut` leaves out what is about to be truncated. Units are cut by the whole texts, as in
    earlier versions, whose stores are finished with them.
    """
    outputs = index.table["output_chars"].to_numpy().astype(np.int64)
    prompts = index.table["prompt_chars"].to_numpy().astype(np.int64)[starts[:-1]] + len(TEMPLATE)
    if cut is not None:
        prompts = np.minimum(prompts, cut.prompt_limit * CHARS_PER_TOKEN)
        room = cut.max_length * CHARS_PER_TOKEN - prompts
        outputs = np.minimum(outputs, np.repeat(room, np.diff(starts)))
    keys = index.table["output_key"].combine_chunks()
    # Rows of one prompt are sorted by output, so duplicates are adjacent.
    is_repeat = np.zeros(len(index), bool)
    is_repeat[1:] = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    is_repeat[starts[:-1]] = False
    totals = np.add.reduceat(np.where(is_repeat, 0, outputs), starts[:-1])
    return np.asarray(totals + prompts)
