"""The plan of a featurize job: its recipe, units, size and fingerprint."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedConfig

from featurize.arrays import Ints
from featurize.data.index import DatasetIndex, why_no_pairs
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
from featurize.model.attention import describe_attention
from featurize.model.device import TokenBudget, choose_token_budget, resolve_device, resolve_dtype
from featurize.model.families.files import model_files
from featurize.model.limits import (
    count_parameters,
)
from featurize.model.source import (
    BackboneSource,
    find_backbone,
    load_tokenizer,
    read_backbone_config,
)
from featurize.run.job import RARE_COUNTS, SHARED_IDS, FeaturizeJob, finished_store, sum_counts
from featurize.run.recipe import (
    Recipe,
    check_backbone,
    check_job,
    make_recipe,
    refuse_shared_adapter,
)
from featurize.run.units import CHARS_PER_TOKEN, cut_units, group_chars, group_starts
from featurize.store.manifest import Manifest, Unit
from featurize.store.samples import (
    SHARED_IDS_REMEDY,
    PlannedPairs,
    SharedIds,
    find_shared_ids,
    mark_pairs,
    mark_statements,
)
from featurize.store.shards import stored_as

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Pairs planned over a dataset, and other rows that are wanted; no other is featurized."""

    pairs: PlannedPairs | None
    """Pairs of rows of the index; None if none are planned."""
    also: Ints
    """Rows of the index wanted whether in a pair or not, such as those of held-out problems."""

    def to_dict(self) -> dict[str, Any]:
        """The selection as JSON."""
        pairs = self.pairs and {
            "correct": self.pairs.correct.tolist(),
            "incorrect": self.pairs.incorrect.tolist(),
            "record": self.pairs.record,
        }
        return {"pairs": pairs, "also": self.also.tolist()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The selection that `to_dict` gave."""
        pairs = fields["pairs"] and PlannedPairs(
            correct=np.array(fields["pairs"]["correct"], np.int64),
            incorrect=np.array(fields["pairs"]["incorrect"], np.int64),
            record=fields["pairs"]["record"],
        )
        return cls(pairs=pairs, also=np.array(fields["also"], np.int64))


Choose = Callable[[pa.Table, Callable[[], Ints]], Selection]
"""Makes a selection from the table of an index; the second argument counts output tokens."""


def select(index: DatasetIndex, selection: Selection) -> DatasetIndex:
    """The selected rows of an index, in their order, marked with the pairs they are part of."""
    is_kept = np.zeros(len(index), bool)
    is_kept[selection.also] = True
    if selection.pairs is None:
        return index.take(is_kept)
    is_kept[selection.pairs.rows] = True
    places = np.cumsum(is_kept) - 1  # of each kept row among the kept
    kept = index.take(is_kept)
    pairs = replace(
        selection.pairs,
        correct=places[selection.pairs.correct],
        incorrect=places[selection.pairs.incorrect],
    )
    return replace(kept, table=mark_pairs(kept.table, pairs))


@dataclass(frozen=True, kw_only=True)
class FeaturizePlan:
    """What will be done, and its size; made from the index and the backbone's files alone."""

    job: FeaturizeJob
    selection: Selection | None
    recipe: Recipe
    source: BackboneSource
    index: DatasetIndex = field(repr=False)
    num_read: int  # samples in the files
    fingerprint: str
    token_budget: TokenBudget  # of one forward pass
    attention: str  # what runs where, in one line
    shared_ids: SharedIds | None = None  # problem ids with several statements
    shared_at: str = ""  # where the first of them is in the files
    num_suffix: int = 0  # tokens that follow each output
    imported: Mapping[str, Any] | None = None  # where features come from that are not computed

    @functools.cached_property
    def units(self) -> tuple[tuple[int, int], ...]:
        """Rows [start, stop) of the index, for each unit."""
        return tuple(cut_units(self.index, self.job.featurize.unit_tokens))

    @functools.cached_property
    def counted_tokens(self) -> int | None:
        """Tokens to compute, as an earlier count has them; None where there was none."""
        counts, dataset = counts_of(self.index.table), self.job.dataset
        if counts is None:
            return None
        return unique_tokens(self.index.table, counts.cut(dataset.max_length, dataset.prompt_limit))

    @property
    def num_pairs(self) -> int | None:
        """Pairs planned, where only the samples of pairs are featurized."""
        pairs = self.selection.pairs if self.selection else None
        return None if pairs is None else len(pairs.correct)

    @property
    def finished(self) -> Manifest | None:
        """The manifest of a store of the same fingerprint, which has nothing left to do."""
        return finished_store(self.job, self.fingerprint)

    @property
    def store_plan(self) -> dict[str, Any]:
        """What a writer of the store has to know."""
        return {
            "fingerprint": self.fingerprint,
            "recipe_fingerprint": self.recipe.fingerprint,
            "recipe": self.recipe.fields,
            "num_units": len(self.units),
            "command": self.job.command,
            **({"imported": dict(self.imported)} if self.imported is not None else {}),
        }

    def total_counts(self, units: Iterable[Unit]) -> dict[str, int]:
        """Every row that was read is in exactly one of featurized, duplicates and not_selected."""
        total = sum_counts(unit.counts for unit in units)
        total["read"] = self.num_read
        total["not_selected"] = self.num_read - len(self.index)
        if self.num_pairs is not None:
            total["pairs"] = self.num_pairs
        if self.shared_ids is not None:
            total[SHARED_IDS] = self.shared_ids.num_problems
        return total

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
            "forward pass": str(self.token_budget),
            "tokens, about" if self.counted_tokens is None else "tokens, counted": tokens,
            "store, about": f"{rows * self.bytes_per_row / 1e6:,.0f} MB",
            "store folder": str(self.job.store_dir),
        }

    def to_import(self, is_kept: np.ndarray, origin: Mapping[str, Any]) -> "FeaturizePlan":
        """Return the plan of importing the features of some samples, bool [rows], from `origin`.

        Its fingerprint differs from that of computing them.
        """
        index = self.index.take(is_kept)
        return replace(
            self,
            index=index,
            fingerprint=_fingerprint(self.recipe, index, self.job, imported=origin),
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
        message = f"{self.shared_ids} ({self.shared_at}); {SHARED_IDS_REMEDY}"
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
        chars = group_chars(self.index, group_starts(self.index), self.job.dataset)
        return int(chars.sum()) // CHARS_PER_TOKEN + suffixes


def plan_featurize(job: FeaturizeJob, choose: Choose | None = None) -> FeaturizePlan:
    """Reads and checks everything that can be known before the backbone is loaded.

    `choose` plans pairs over the dataset, of which only the samples are featurized.

    Raises:
        ValueError: bad data, an unreadable backbone, contradicting settings.
    """
    check_job(job)
    device = resolve_device(job.runtime.device)
    dtype = resolve_dtype(
        job.backbone.dtype,
        device,
        mixed_precision=job.runtime.mixed_precision and job.distributed.mixed_precision,
    )
    whole = DatasetIndex.build(
        job.dataset.path_of(job.split),
        job.cache_dir / "index",
        keeps_turns=job.prompt.has_turns,
        needs_labels=job.needs_labels,
    )
    source = find_backbone(job.backbone, job.cache_dir, dtype)
    refuse_shared_adapter(job, source)
    recipe = make_recipe(
        source, job.backbone, job.dataset, job.featurize, dtype, device, job.prompt
    )
    index, shared_ids, shared_at = _choose_problems(whole, job, source, recipe)
    config = read_backbone_config(source, job.backbone)
    num_suffix = check_backbone(job, source, config)
    selection = None
    if choose is not None:
        count = functools.partial(_count_outputs, index, source, job, recipe)
        selection = choose(index.table, count)
        index = select(index, selection)
    return FeaturizePlan(
        job=job,
        selection=selection,
        recipe=recipe,
        source=source,
        index=index,
        num_read=len(whole),
        fingerprint=_fingerprint(recipe, index, job, selection=selection),
        token_budget=_choose_budget(job, config, device, num_suffix),
        attention=describe_attention(
            config,
            device,
            dtype,
            forward=job.featurize.forward,
            max_length=job.dataset.max_length + num_suffix,
        ),
        shared_ids=shared_ids,
        shared_at=shared_at,
        num_suffix=num_suffix,
    )


def _choose_problems(
    index: DatasetIndex, job: FeaturizeJob, source: BackboneSource, recipe: Recipe
) -> tuple[DatasetIndex, SharedIds | None, str]:
    """The problems that the job asks for, with token counts and statements marked.

    Also returns the problem ids that several statements share, and where the first one is.
    """
    index = with_counts(index, job.cache_dir, source.tokenizer_digest, recipe.prompt)
    if job.limit_problems is not None:
        index = index.take_problems(job.limit_problems)
    shared_ids = find_shared_ids(index.table)
    places = map(index.location, shared_ids.rows) if shared_ids else ()
    return replace(index, table=mark_statements(index.table)), shared_ids, " and ".join(places)


def _fingerprint(
    recipe: Recipe,
    index: DatasetIndex,
    job: FeaturizeJob,
    *,
    selection: Selection | None = None,
    imported: Mapping[str, Any] | None = None,
) -> str:
    identity: dict[str, Any] = {
        "recipe": recipe.fingerprint,
        "dataset": index.content_fingerprint,
        "unit_tokens": job.featurize.unit_tokens,
    }
    # NOTE: only where there is one, so that whole stores keep the fingerprint they had.
    if selection and (pairs := selection.pairs) is not None:
        planned = [pairs.record, pairs.correct.tolist(), pairs.incorrect.tolist()]
        identity["pairs"] = digest(planned)
    if imported is not None:
        identity["imported"] = dict(imported)
    return digest(identity)


def _choose_budget(
    job: FeaturizeJob, config: PreTrainedConfig, device: torch.device, num_suffix: int
) -> TokenBudget:
    """The token budget of the run; the backbone is measured only where its size decides."""
    asked, is_cuda = job.featurize.token_budget, device.type == "cuda"
    size = count_parameters(config, job.backbone) if asked is None and is_cuda else None
    return choose_token_budget(asked, device, size, job.dataset.max_length + num_suffix)


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
