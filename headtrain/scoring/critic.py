"""A critic in a Python program: backbone and head together, from texts to values."""

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch

from featurize.arrays import Floats, Ints
from featurize.data.encoder import SampleEncoder
from featurize.data.formats import Alpaca
from featurize.data.records import Sample as Row
from featurize.io.remote import user_cache_dir
from featurize.model.engine import Engine
from featurize.model.packing import Grouping, PromptGroup, group_prefixes, group_samples
from featurize.settings import BackboneSettings
from featurize.store.samples import LIKELIHOOD_COLUMNS
from featurize.store.shards import stored_as
from headtrain.head.checkpoint import TrainedHead, load_head
from headtrain.scoring.along import (
    Along,
    By,
    check_prefixes,
    in_parts,
    prefix_lengths,
    prefix_texts,
    to_by,
)
from headtrain.scoring.judged import Judged
from headtrain.scoring.opening import open_backbone, vocabulary_of
from headtrain.scoring.provenance import Provenance
from headtrain.scoring.samples import CriticEncoder, Output, Prompt, Sample
from headtrain.scoring.scorer import Scorer, Scores

Found = TypeVar("Found")


MAX_PREFIXES = 4096
"""Prefixes whose features are in memory at once: with 10,000 columns they take 160 MB."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The scores of one output."""

    value: float
    """On the head's own scale: higher is more likely correct; compare within a problem."""
    probability: float
    """Probability of being correct, calibrated on the head's train samples."""
    spread: float | None
    """Standard deviation of the values of an ensemble's members; None for a single head."""


class Critic:
    """Scores outputs of prompts; the value of an output does not depend on the others.

    Threads may share a critic: they take turns.
    """

    def __init__(
        self, head: TrainedHead, encoder: SampleEncoder, engine: Engine, storage_dtype: torch.dtype
    ) -> None:
        """Use `Critic.load`."""
        self.head = head
        self._scorer = Scorer(head)
        self._samples = CriticEncoder(
            encoder=encoder,
            vocabulary=vocabulary_of(engine.backbone),
            lock=threading.Lock(),
        )
        self._engine = engine
        self._storage_dtype = storage_dtype
        self._computing = threading.Lock()

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str = "auto",
        backbone: str | None = None,
        tokenizer: str | None = None,
        cache_dir: Path | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a head and the backbone it was trained on.

        Args:
            path: folder of the head, folder of its run, or a URI.
            device: auto, cpu or cuda; of the backbone.
            backbone: path of the backbone, if it is not where the head's run had it.
            tokenizer: path of its tokenizer, if it is not with the backbone.
            cache_dir: folder for converted backbones; None: the user's cache folder.
            trust_remote_code: allows the Python code of a model folder to run.

        Raises:
            ValueError: there is no such head, or the backbone is not the one it was trained on.
        """
        head = load_head(path)
        provenance = Provenance.of(head)
        settings = replace(provenance.backbone, trust_remote_code=trust_remote_code)
        if backbone is not None:
            settings = replace(settings, path=backbone, revision=None, tokenizer_path=tokenizer)
        elif tokenizer is not None:
            settings = replace(settings, tokenizer_path=tokenizer)
        return cls.of(head, [settings], device=device, cache_dir=cache_dir)

    @classmethod
    def of(
        cls,
        head: TrainedHead,
        places: Sequence[BackboneSettings],
        *,
        device: str = "auto",
        cache_dir: Path | None = None,
    ) -> Self:
        """Load the backbone of a head from the first of `places` that has it.

        Raises:
            ValueError: none has it.
        """
        opened = open_backbone(head, places, device=device, cache_dir=cache_dir or user_cache_dir())
        return cls(head, opened.encoder, opened.engine, opened.storage_dtype)

    def score(self, prompt: Prompt, outputs: Sequence[Output], input: str = "") -> list[float]:
        """Return the value of each output, higher if more likely correct.

        Compare values within a prompt only.

        Args:
            prompt: the problem, as datasets have it in `instruction`, or as chat messages; the
                head's template is added. Several turns need a prompt.format of chat or jinja.
                A list of token ids is the whole prompt: nothing is added.
            outputs: candidate solutions, as texts or token ids.
            input: what datasets have in `input`.

        Raises:
            ValueError: an output is empty, a text cannot be encoded as UTF-8, or an id is unknown.
        """
        return self._values(self.encode(prompt, outputs, input))

    def judge(self, prompt: Prompt, outputs: Sequence[Output], input: str = "") -> list[Verdict]:
        """Return value, probability and spread of each output; takes the arguments of `score`.

        Raises:
            CheckpointError: the head has no calibration.
            ValueError: as `score`.
        """
        self._scorer.check_calibration()
        return self._verdicts(self.encode(prompt, outputs, input))

    def score_many(self, groups: Sequence[tuple[Prompt, Sequence[Output]]]) -> list[list[float]]:
        """Return the values of each (prompt, outputs), computed together.

        Prompts of equal token ids are computed once, also those of different groups. The values
        are those of `score`.

        Raises:
            ValueError: as `score`; names the group.
        """
        return self._for_groups(groups, self._values)

    def judge_many(self, groups: Sequence[tuple[Prompt, Sequence[Output]]]) -> list[list[Verdict]]:
        """Return the verdicts on each (prompt, outputs), computed together as in `score_many`.

        Raises:
            CheckpointError: the head has no calibration.
            ValueError: as `score_many`.
        """
        self._scorer.check_calibration()
        return self._for_groups(groups, self._verdicts)

    def encode(self, prompt: Prompt, outputs: Sequence[Output], input: str = "") -> list[Sample]:
        """Tokenize; takes the arguments of `score`.

        Raises:
            ValueError: as `score`.
        """
        return self._samples.encode(prompt, outputs, input)

    def encode_one(self, prompt: Prompt, output: Output, input: str = "") -> Sample:
        """Tokenize one output; takes the arguments of `score`.

        Raises:
            ValueError: as `score`.
        """
        return self._samples.encode_one(prompt, output, input)

    def values_along(
        self, prompt: Prompt, output: Output, by: By = "lines", input: str = ""
    ) -> Along:
        """Return the value of each prefix of an output, from one forward pass over all of it.

        The last value is the output's score. A prefix is one of the output's tokens: its own text
        may have other tokens at its end.

        Args:
            prompt, output, input: as `score` takes them.
            by: a prefix after each line ("lines"), each token ("tokens"), or each of N equal parts.

        Raises:
            CriticError: the head reads what only a whole output has, or `by` is something else.
            ValueError: as `score`.
        """
        sample = self.with_prefixes(self.encode_one(prompt, output, input), by)
        (judged,) = self.judge_samples([sample])
        assert judged.along is not None, "it was asked for"
        return judged.along

    def with_prefixes(self, sample: Sample, by: By) -> Sample:
        """Ask for the values along an encoded sample, which `judge_samples` gives.

        Raises:
            CriticError: as `values_along`.
        """
        by = to_by(by)
        has_end = bool(self._samples.encoder.suffix.end)
        check_prefixes(self.head.record.columns.tensors, has_end=has_end)
        lengths = prefix_lengths(sample.output, by, self._samples.decode)
        return replace(sample, prefixes=lengths)

    def encode_row(self, row: Row) -> Sample:
        """Tokenize a row of a dataset as `critic featurize` does.

        Raises:
            CriticError: the output has no tokens, or the chat template refuses a text.
        """
        return self._samples.encode_row(row)

    def score_samples(
        self, samples: Sequence[Sample], on_tokens: Callable[[int], None] | None = None
    ) -> Scores:
        """Score encoded samples of any prompts, at least one; ranks are within a prompt.

        Args:
            samples: n of them.
            on_tokens: called with the number of tokens computed.

        Raises:
            ValueError: the features or the value of a sample are NaN or inf.
        """
        grouping = self._group(samples)
        with self._computing:
            features = self._features(grouping.groups, grouping.num_rows, on_tokens)
            scores = self._scorer.score_outputs(
                features, grouping.row_of_sample, _prompt_codes(samples)
            )
        return self._check(scores)

    def judge_samples(
        self, samples: Sequence[Sample], on_tokens: Callable[[int], None] | None = None
    ) -> list[Judged]:
        """Judge encoded samples in one run of the backbone; each prompt is computed once.

        With values along many samples, it is several runs, which bounds the memory.

        Args:
            samples: samples of any prompts, at least one.
            on_tokens: called with the number of tokens computed.

        Raises:
            ValueError: the features or a number are NaN or inf.
        """
        if not any(sample.prefixes for sample in samples):
            return self._to_judged(samples, self.score_samples(samples, on_tokens))
        counts = [len(sample.prefixes) or 1 for sample in samples]
        parts = in_parts(counts, MAX_PREFIXES)
        return [one for part in parts for one in self._judge_along(samples[part], on_tokens)]

    def _judge_along(
        self, samples: Sequence[Sample], on_tokens: Callable[[int], None] | None
    ) -> list[Judged]:
        """Judge samples of which some want the values of their prefixes, in one run."""
        wanted = [sample.prefixes or (len(sample.output),) for sample in samples]
        grouping = group_prefixes(self._group(samples), wanted)
        codes = np.repeat(_prompt_codes(samples), [len(lengths) for lengths in wanted])
        with self._computing:
            features = self._features(grouping.groups, grouping.num_rows, on_tokens)
            scores = self._scorer.score_outputs(features, np.concatenate(grouping.rows), codes)
        stops = np.cumsum([len(lengths) for lengths in wanted])
        values = np.split(self._check(scores).values, stops[:-1])
        return [
            replace(judged, along=self._to_along(sample, own)) if sample.prefixes else judged
            for judged, sample, own in zip(
                self._to_judged(samples, scores.take(stops - 1)), samples, values, strict=True
            )
        ]

    def _to_along(self, sample: Sample, values: Floats) -> Along:
        return Along(
            positions=sample.prefixes,
            texts=prefix_texts(sample.output, sample.prefixes, self._samples.decode),
            values=tuple(values.tolist()),
        )

    def _to_judged(self, samples: Sequence[Sample], scores: Scores) -> list[Judged]:
        is_calibrated = self._scorer.calibration is not None
        nothing = [None] * len(samples)
        columns = zip(
            samples,
            scores.values.tolist(),
            scores.log_odds.tolist() if is_calibrated else nothing,
            scores.probabilities.tolist() if is_calibrated else nothing,
            nothing if scores.spreads is None else scores.spreads.tolist(),
            strict=True,
        )
        return [
            Judged(
                value=value,
                logit=logit,
                probability=probability,
                spread=spread,
                num_tokens=len(sample.prompt) + len(sample.output),
                is_truncated=sample.is_truncated,
            )
            for sample, value, logit, probability, spread in columns
        ]

    def _group(self, samples: Sequence[Sample]) -> Grouping:
        suffix = self._samples.encoder.suffix
        return group_samples(
            ((sample.prompt, sample.output) for sample in samples),
            end=suffix.end,
            question=suffix.question,
        )

    def _check(self, scores: Scores) -> Scores:
        if not np.isfinite(scores.values).all():
            raise ValueError(f"{self.head.path}: the head's value of a sample is NaN or inf")
        return scores

    @property
    def has_default_prompt(self) -> bool:
        """Whether the head's prompts are in Alpaca's template."""
        return isinstance(self._samples.encoder.format, Alpaca)

    def _for_groups(
        self,
        groups: Sequence[tuple[Prompt, Sequence[Output]]],
        compute: Callable[[list[Sample]], list[Found]],
    ) -> list[list[Found]]:
        encoded = []
        for place, (prompt, outputs) in enumerate(groups):
            try:
                encoded.append(self.encode(prompt, outputs))
            except ValueError as error:
                raise ValueError(f"groups[{place}]: {error}") from error
        found = iter(compute(list(itertools.chain.from_iterable(encoded))))
        return [list(itertools.islice(found, len(samples))) for samples in encoded]

    def _values(self, samples: list[Sample]) -> list[float]:
        return [float(value) for value in self.score_samples(samples).values] if samples else []

    def _verdicts(self, samples: list[Sample]) -> list[Verdict]:
        if not samples:
            return []
        scores = self.score_samples(samples)
        spreads = [None] * len(samples) if scores.spreads is None else scores.spreads.tolist()
        return [
            Verdict(value=value, probability=probability, spread=spread)
            for value, probability, spread in zip(
                scores.values.tolist(), scores.probabilities.tolist(), spreads, strict=True
            )
        ]

    def _features(
        self,
        groups: Sequence[PromptGroup],
        num_rows: int,
        on_tokens: Callable[[int], None] | None,
    ) -> torch.Tensor:
        """Compute the inputs of the head as a store would hold them: [rows, width]."""
        found = self._engine.run(groups, num_rows, on_tokens)
        columns = self.head.record.columns
        # NOTE: rounded as in a store: the head was trained on rounded features.
        blocks = [
            found.tensors[name].to(stored_as(name, self._storage_dtype)).float()
            for name in columns.tensors
        ]
        if columns.likelihood:
            assert found.likelihood is not None, "the spec asks for it"
            blocks.append(found.likelihood[:, : len(LIKELIHOOD_COLUMNS)])
        features = torch.cat(blocks, dim=1)
        if not math.isfinite(features.sum()) and not bool(features.isfinite().all()):
            raise ValueError(
                "the backbone's features are NaN or inf; use a wider models.policy.dtype"
            )
        return features


def _prompt_codes(samples: Sequence[Sample]) -> Ints:
    """Number the prompts by first appearance: [samples]."""
    codes: dict[tuple[int, ...], int] = {}
    return np.array([codes.setdefault(sample.prompt, len(codes)) for sample in samples], np.int64)
