"""One unit of work: some whole problems, from texts to rows of the store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurize.data.encoder import EncodedSamples, OutputIds, SampleEncoder
from featurize.data.formats import prompt_of
from featurize.data.index import DatasetIndex
from featurize.data.prompt import TEMPLATE, TokenIds
from featurize.data.records import Sample
from featurize.errors import DataError
from featurize.model.forward import Features
from featurize.model.packing import Grouping, PromptGroup, group_samples, plan_units
from featurize.run.job import APART, BOTH_LABELS, STRIPPED
from featurize.run.recipe import Recipe
from featurize.settings import DatasetSettings
from featurize.store.samples import SAMPLE_SCHEMA, copy_marks
from featurize.store.shards import stored_as
from featurize.store.writer import UnitFeatures

CHARS_PER_TOKEN = 3
"""For sizing units before anything is tokenised; programs run from 2.5 to 3.5."""


def group_starts(index: DatasetIndex) -> np.ndarray:
    """Rows at which a new prompt begins, and the number of rows: int64 [prompts + 1]."""
    keys = index.table["prompt_key"].combine_chunks()
    is_new = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(index)]]).astype(np.int64)


def cut_units(index: DatasetIndex, unit_tokens: int) -> list[tuple[int, int]]:
    """Rows [start, stop) of each unit: consecutive whole problems of about `unit_tokens`."""
    starts = group_starts(index)
    sizes = group_chars(index, starts) // CHARS_PER_TOKEN
    return [
        (int(starts[first]), int(starts[last]))
        for first, last in plan_units(sizes.tolist(), unit_tokens)
    ]


def group_chars(
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


@dataclass(frozen=True, kw_only=True)
class UnitWork:
    """A unit read and tokenised, ready for the backbone."""

    number: int
    samples: Sequence[Sample]
    prompts: Sequence[TokenIds]  # of each sample
    outputs: Sequence[OutputIds]
    grouping: Grouping
    num_suffix: int  # tokens that follow each output
    rows: pa.Table  # of the index, for what the store keeps of it: pairs planned

    @property
    def counts(self) -> dict[str, int]:
        """What the summary says about these samples."""
        groups = self.grouping.groups
        rare = {
            BOTH_LABELS: self._count_both_labels(),
            APART: sum(output.is_apart for output in self.outputs),
            STRIPPED: sum(output.is_stripped for output in self.outputs),
        }
        return {
            "samples": len(self.samples),
            "feature_rows": self.grouping.num_rows,
            "duplicates": len(self.samples) - self.grouping.num_rows,
            "prompts_truncated": sum(prompt.is_truncated for prompt in self.prompts),
            "outputs_truncated": sum(output.is_truncated for output in self.outputs),
            "prompts": len(groups),
            "unique_tokens": sum(group.num_tokens for group in groups),
            "all_tokens": sum(
                len(prompt.ids) + len(output.ids) + self.num_suffix
                for prompt, output in zip(self.prompts, self.outputs, strict=True)
            ),
            **{name: count for name, count in rare.items() if count},
        }

    def _count_both_labels(self) -> int:
        """Samples that share a feature row with one of the other label, which is no pair."""
        labelled = [
            (int(row), sample.is_correct)
            for row, sample in zip(self.grouping.row_of_sample, self.samples, strict=True)
            if sample.is_correct is not None
        ]
        found = set(labelled)
        return sum((row, not label) in found for row, label in labelled)


def read_unit(
    number: int, rows: np.ndarray, index: DatasetIndex, encoder: SampleEncoder
) -> UnitWork:
    """Reads and tokenises the samples of `rows`; those of one prompt are adjacent.

    Raises:
        DataError: a text that cannot be encoded, such as an output without tokens (names file and
            line).
    """
    samples = index.read(rows)
    prompts: list[TokenIds] = []
    outputs: list[OutputIds] = []
    for encoded in _encode(samples, encoder):
        outputs += encoded.outputs
        prompts += [encoded.prompt] * len(encoded.outputs)
    pairs = zip(prompts, outputs, strict=True)
    suffix = encoder.suffix
    grouping = group_samples(
        ((prompt.ids, output.ids) for prompt, output in pairs),
        end=suffix.end,
        question=suffix.question,
    )
    return UnitWork(
        number=number,
        samples=samples,
        prompts=prompts,
        outputs=outputs,
        grouping=grouping,
        num_suffix=len(suffix.ids),
        rows=index.table.take(pa.array(rows)),
    )


def _encode(samples: Sequence[Sample], encoder: SampleEncoder) -> list[EncodedSamples]:
    """Ids of all prompts and outputs; DataError names the sample that cannot be encoded."""
    groups = [(prompt, list(same)) for prompt, same in groupby(samples, prompt_of)]
    try:
        texts = [(prompt, [sample.output for sample in same]) for prompt, same in groups]
        return encoder.encode_all(texts)
    except ValueError:
        for sample in samples:
            try:
                encoder.encode(prompt_of(sample), [sample.output])
            except ValueError as error:
                raise DataError(f"{sample.location}: {error}") from error
        raise


def join_units(units: Sequence[UnitWork]) -> tuple[list[PromptGroup], int]:
    """Join the prompts of several units, the rows of each after those before; and count the rows.

    Forward passes are then cut across units; `split_features` takes the units apart again.
    """
    groups, num_rows = [], 0
    for unit in units:
        groups += [
            replace(group, rows=tuple(row + num_rows for row in group.rows))
            for group in unit.grouping.groups
        ]
        num_rows += unit.grouping.num_rows
    return groups, num_rows


def split_features(features: Features, units: Sequence[UnitWork]) -> list[Features]:
    """Split the features of joined units by unit."""
    bounds = [0, *accumulate(unit.grouping.num_rows for unit in units)]
    return [
        Features(
            tensors={name: tensor[start:stop] for name, tensor in features.tensors.items()},
            likelihood=None if features.likelihood is None else features.likelihood[start:stop],
        )
        for start, stop in pairwise(bounds)
    ]


def to_unit_features(work: UnitWork, features: Features, recipe: Recipe) -> UnitFeatures:
    """The tensors in their storage format and the sample table."""
    columns = {
        "task_id": [s.task_id for s in work.samples],
        "problem_id": [s.problem_id for s in work.samples],
        "is_correct": [s.is_correct for s in work.samples],
        "language": [s.language for s in work.samples],
        "difficulty": [s.difficulty for s in work.samples],
        "source": [s.source for s in work.samples],
        "prompt_tokens": [len(prompt.ids) for prompt in work.prompts],
        "output_tokens": [len(output.ids) for output in work.outputs],
        "prompt_truncated": [prompt.is_truncated for prompt in work.prompts],
        "output_truncated": [output.is_truncated for output in work.outputs],
        "feature_row": work.grouping.row_of_sample,
    }
    table = pa.table(columns, schema=SAMPLE_SCHEMA)
    if features.likelihood is not None:
        of_samples = features.likelihood.numpy()[work.grouping.row_of_sample]  # [samples, columns]
        for place, name in enumerate(recipe.spec.columns):
            table = table.append_column(name, pa.array(of_samples[:, place], pa.float32()))
    if "author" in work.rows.column_names:  # so in all units or in none
        authors = pa.array([s.author for s in work.samples], pa.string())
        table = table.append_column("author", authors)
    table = copy_marks(table, work.rows)
    tensors = {
        name: tensor.to(stored_as(name, recipe.storage_dtype))
        for name, tensor in features.tensors.items()
    }
    return UnitFeatures(tensors=tensors, samples=table)
