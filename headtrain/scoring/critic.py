"""A critic in a Python program: backbone and head together, from texts to values."""

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from featurize.arrays import Floats
from featurize.data.formats import Alpaca
from featurize.errors import CriticError
from featurize.io.remote import user_cache_dir
from featurize.model.packing import PrefixGrouping, group_prefixes, group_samples
from featurize.settings import BackboneSettings
from featurize.store.samples import LIKELIHOOD_COLUMNS
from featurize.store.shards import stored_as
from headtrain.head.checkpoint import TrainedHead, load_head
from headtrain.scoring.provenance import OpenedBackbone, Provenance, open_backbone
from headtrain.scoring.samples import CriticEncoder, Sample
from headtrain.scoring.scorer import Scorer
from headtrain.scoring.texts import Output, Prompt
from headtrain.scoring.verdict import Along, By, Verdict, in_parts

__all__ = ["Critic", "Verdict"]

MAX_PREFIXES = 4096
"""Prefixes whose features are in memory at once: with 10,000 columns they take 160 MB."""


class Critic:
    """Scores outputs of prompts; the value of an output does not depend on the others.

    Threads may share a critic: they take turns.
    """

    def __init__(self, head: TrainedHead, opened: OpenedBackbone) -> None:
        """Use `Critic.load`."""
        self.head = head
        self.samples = CriticEncoder(
            encoder=opened.encoder,
            vocabulary=opened.vocabulary,
            tensors=head.record.columns.tensors,
        )
        """Makes the samples that `judge_samples` takes."""
        self._scorer = Scorer(head, has_distance=None)
        self._engine = opened.engine
        self._storage_dtype = opened.storage_dtype
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
        for name, place in (("backbone", backbone), ("tokenizer", tokenizer)):
            if place == "":
                raise CriticError(f"the {name} is ''; name a folder or hub id, or leave it out")
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
        cache_dir = cache_dir or user_cache_dir()
        return cls(head, open_backbone(head, places, device=device, cache_dir=cache_dir))

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
        return _values(self.judge_samples(self.samples.encode(prompt, outputs, input)))

    def judge(self, prompt: Prompt, outputs: Sequence[Output], input: str = "") -> list[Verdict]:
        """Return value, probability and spread of each output; takes the arguments of `score`.

        Raises:
            CheckpointError: the head has no calibration.
            ValueError: as `score`.
        """
        self._scorer.check_calibration()
        return self.judge_samples(self.samples.encode(prompt, outputs, input))

    def score_many(self, groups: Sequence[tuple[Prompt, Sequence[Output]]]) -> list[list[float]]:
        """Return the values of each (prompt, outputs), computed together.

        Prompts of equal token ids are computed once, also those of different groups. The values
        are those of `score`.

        Raises:
            ValueError: as `score`; names the group.
        """
        return [_values(verdicts) for verdicts in self._judge_groups(groups)]

    def judge_many(self, groups: Sequence[tuple[Prompt, Sequence[Output]]]) -> list[list[Verdict]]:
        """Return the verdicts on each (prompt, outputs), computed together as in `score_many`.

        Raises:
            CheckpointError: the head has no calibration.
            ValueError: as `score_many`.
        """
        self._scorer.check_calibration()
        return self._judge_groups(groups)

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
        sample = self.samples.encode_one(prompt, output, input)
        [verdict] = self.judge_samples([self.samples.with_prefixes(sample, by)])
        assert verdict.along is not None, "it was asked for"
        return verdict.along

    def judge_samples(
        self, samples: Sequence[Sample], on_tokens: Callable[[int], None] | None = None
    ) -> list[Verdict]:
        """Score samples of any prompts in one run of the backbone; each prompt is computed once.

        With values along many samples, it is several runs, which bounds the memory. `on_tokens` is
        called with the number of tokens computed.

        Raises:
            ValueError: the features or a number are NaN or inf.
        """
        parts = [slice(None)] if samples else []
        if any(sample.prefixes for sample in samples):
            parts = in_parts([len(sample.prefixes) or 1 for sample in samples], MAX_PREFIXES)
        return [one for part in parts for one in self._judge_part(samples[part], on_tokens)]

    def _judge_part(
        self, samples: Sequence[Sample], on_tokens: Callable[[int], None] | None
    ) -> list[Verdict]:
        grouping = self._group(samples)
        whole = np.array([rows[-1] for rows in grouping.rows])
        with self._computing:
            features = self._features(grouping, on_tokens)
            scores = self._scorer.score(features)
            distances = self._scorer.measure(features, whole)
        if not np.isfinite(scores.values).all():
            raise ValueError(f"{self.head.path}: the head's value of a sample is NaN or inf")
        is_calibrated = scores.calibration is not None

        def column(values: Floats | None) -> list[float] | list[None]:
            return [None] * len(samples) if values is None else values[whole].tolist()

        columns = zip(
            samples,
            grouping.rows,
            column(scores.values),
            column(scores.log_odds if is_calibrated else None),
            column(scores.probabilities if is_calibrated else None),
            column(scores.spreads),
            [None] * len(samples) if distances is None else distances.tolist(),
            strict=True,
        )
        return [
            Verdict(
                value=value,
                logit=logit,
                probability=probability,
                spread=spread,
                distance=distance,
                num_tokens=len(sample.prompt) + len(sample.output),
                is_truncated=sample.is_truncated,
                along=self._to_along(sample, scores.values[rows]) if sample.prefixes else None,
            )
            for sample, rows, value, logit, probability, spread, distance in columns
        ]

    def _to_along(self, sample: Sample, values: Floats) -> Along:
        return Along(
            positions=sample.prefixes,
            texts=self.samples.prefix_texts(sample),
            values=tuple(values.tolist()),
        )

    def _group(self, samples: Sequence[Sample]) -> PrefixGrouping:
        """Group samples by prompt: a row per output or, if one has prefixes, per prefix."""
        suffix = self.samples.encoder.suffix
        found = group_samples(
            ((sample.prompt, sample.output) for sample in samples),
            end=suffix.end,
            question=suffix.question,
        )
        if any(sample.prefixes for sample in samples):
            wanted = [sample.prefixes or (len(sample.output),) for sample in samples]
            return group_prefixes(found, wanted)
        rows = list(found.row_of_sample[:, None])
        return PrefixGrouping(groups=found.groups, rows=rows, num_rows=found.num_rows)

    @property
    def has_default_prompt(self) -> bool:
        """Whether the head's prompts are in Alpaca's template."""
        return isinstance(self.samples.encoder.format, Alpaca)

    def _judge_groups(
        self, groups: Sequence[tuple[Prompt, Sequence[Output]]]
    ) -> list[list[Verdict]]:
        encoded = []
        for place, (prompt, outputs) in enumerate(groups):
            try:
                encoded.append(self.samples.encode(prompt, outputs))
            except ValueError as error:
                raise ValueError(f"groups[{place}]: {error}") from error
        found = iter(self.judge_samples(list(itertools.chain.from_iterable(encoded))))
        return [list(itertools.islice(found, len(samples))) for samples in encoded]

    def _features(
        self, grouping: PrefixGrouping, on_tokens: Callable[[int], None] | None
    ) -> torch.Tensor:
        """Compute the inputs of the head as a store would hold them: [rows, width]."""
        found = self._engine.run(grouping.groups, grouping.num_rows, on_tokens)
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


def _values(verdicts: Sequence[Verdict]) -> list[float]:
    return [verdict.value for verdict in verdicts]
