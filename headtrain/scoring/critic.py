"""A critic in a Python program: the backbone and a head together, from texts to values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from featurize.data.fields import to_answer, to_text
from featurize.data.prompt import Encoder
from featurize.model import attention
from featurize.model.backbone import Backbone, load_backbone, load_tokenizer
from featurize.model.device import resolve_device
from featurize.model.engine import Engine, Forward, choose_forward
from featurize.model.forward import FeatureSpec
from featurize.model.packing import Grouping, PromptGroup, group_samples
from featurize.store import user_cache_dir
from headtrain.features.inputs import InputColumns
from headtrain.head.checkpoint import CheckpointError, TrainedHead, load_head
from headtrain.scoring.provenance import FoundBackbone, Origin

SHORTEST_PROBE = 256
"""Tokens of the sequences on which the forwards are compared, where the model has no window."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a critic says of one output."""

    value: float
    """On the head's own scale: higher is more likely correct; compare within a problem."""
    probability: float
    """Of being correct, by the calibration fitted on the head's train samples."""
    spread: float | None
    """How far the members of an ensemble disagree (deviation); None of a single head."""


class Critic:
    """Scores outputs of a prompt; an output's value does not depend on its company."""

    def __init__(
        self, head: TrainedHead, encoder: Encoder, engine: Engine, storage_dtype: torch.dtype
    ) -> None:
        """Use `Critic.load`."""
        self.head = head
        self._encoder = encoder
        self._engine = engine
        self._storage_dtype = storage_dtype

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
        """Read a head and load the backbone it names; nothing else is needed.

        Args:
            path: the head's folder, the folder of its run, or a URI.
            device: auto, cpu or cuda; of the backbone.
            backbone: where the backbone is, if not where the head's run had it.
            tokenizer: where its tokenizer is, if not with the backbone.
            cache_dir: where converted backbones are kept; None: the user's cache folder.
            trust_remote_code: lets a model folder's own Python code run.

        Raises:
            ValueError: no such head, or a backbone that is not the head's.
        """
        head = load_head(path)
        origin = Origin.of(head)
        place = replace(origin.backbone, trust_remote_code=trust_remote_code)
        if backbone is not None:
            place = replace(place, path=backbone, revision=None, tokenizer_path=tokenizer)
        elif tokenizer is not None:
            place = replace(place, tokenizer_path=tokenizer)
        where = resolve_device(device)
        found = origin.find(where, cache_dir or user_cache_dir(), [place])
        encoder = Encoder(
            tokenizer=load_tokenizer(found.source, found.settings),
            max_length=origin.dataset.max_length,
            max_prompt_length=origin.dataset.prompt_limit,
        )
        spec = _narrow(found.recipe.spec, head.record.columns)
        loaded = _load(found, spec, where)
        forward = origin.featurize.forward
        if forward == "auto":
            forward = _choose(loaded, spec, encoder, found.recipe.compute_dtype)
        engine = Engine(loaded, spec, forward, origin.featurize.token_budget)
        return cls(head, encoder, engine, found.recipe.storage_dtype)

    def score(self, prompt: str, outputs: Sequence[str], input: str = "") -> list[float]:
        """The value of each output, higher for more likely correct; compare within a prompt.

        Args:
            prompt: the problem as datasets have it in `instruction`; the template is put around it.
            outputs: candidate solutions.
            input: what datasets have in `input`.

        Raises:
            ValueError: an output is empty, or a text that UTF-8 cannot hold.
        """
        values, _ = self._judge(prompt, outputs, input)
        return [float(value) for value in values]

    def judge(self, prompt: str, outputs: Sequence[str], input: str = "") -> list[Verdict]:
        """The value, probability and spread of each output; arguments as of `score`.

        Raises:
            CheckpointError: the head has no calibration.
            ValueError: as `score`.
        """
        decision = self.head.record.decision
        if decision is None:
            raise CheckpointError(
                f"{self.head.path}: has no calibration (a checkpoint on the way, or of an older"
                " version), so there are values but no probabilities; run `critic train-head"
                " --overwrite` again and take best or final"
            )
        values, spreads = self._judge(prompt, outputs, input)
        probabilities = decision.calibration.probability(values)
        is_ensemble = self.head.record.num_members > 1
        return [
            Verdict(
                value=float(value),
                probability=float(probability),
                spread=float(spread) if is_ensemble else None,
            )
            for value, probability, spread in zip(values, probabilities, spreads, strict=True)
        ]

    def _judge(
        self, prompt: str, outputs: Sequence[str], input_text: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and spreads, float64 [outputs] each."""
        if isinstance(outputs, str):
            raise ValueError(f"outputs is one string ({outputs[:40]!r}); give a list of strings")
        if not outputs:
            return np.empty(0), np.empty(0)
        grouping = self._encode(prompt, outputs, input_text)
        features = self._features(grouping)  # [rows, width]
        values, spreads = self.head.score(features), self.head.spread(features)  # [rows]
        rows = grouping.row_of_sample
        return values.double().numpy()[rows], spreads.double().numpy()[rows]

    def _encode(self, prompt: str, outputs: Sequence[str], input_text: str) -> Grouping:
        texts = [to_answer(text, f"outputs[{place}]") for place, text in enumerate(outputs)]
        encoded = self._encoder.encode_prompt(
            to_text(prompt, "prompt"), to_text(input_text, "input")
        )
        ids = self._encoder.encode_outputs(texts, len(encoded.ids))
        return group_samples((encoded.ids, output.ids) for output in ids)

    def _features(self, grouping: Grouping) -> torch.Tensor:
        """Input vectors of the head, as reading them from a store would give: [rows, width]."""
        found = self._engine.run(grouping.groups, grouping.num_rows)
        columns = self.head.record.columns
        # NOTE: rounded as a store does, or the head would see what no store can hold.
        blocks = [found.tensors[name].to(self._storage_dtype).float() for name in columns.tensors]
        if columns.likelihood:
            assert found.likelihood is not None, "the spec asks for it"
            blocks.append(found.likelihood)
        features = torch.cat(blocks, dim=1)
        if not math.isfinite(features.sum()) and not bool(features.isfinite().all()):
            raise ValueError(
                "the backbone's features are NaN or inf; use a wider models.policy.dtype"
            )
        return features


def _narrow(spec: FeatureSpec, columns: InputColumns) -> FeatureSpec:
    """The part of a recipe that a head reads: what lies above its deepest layer is not run."""
    wanted = [name.rpartition(".") for name in columns.tensors]  # pooling, ".", layer
    return FeatureSpec(
        layers=tuple(layer for layer in spec.layers if str(layer) in {name[2] for name in wanted}),
        poolings=tuple(p for p in spec.poolings if p in {name[0] for name in wanted}),
        likelihood=columns.likelihood,
    )


def _load(found: FoundBackbone, spec: FeatureSpec, device: torch.device) -> Backbone:
    attention.register()
    return load_backbone(
        found.source,
        found.settings,
        device=device,
        dtype=found.recipe.compute_dtype,
        deepest_layer=spec.deepest(found.recipe.num_layers),
        with_lm_head=spec.likelihood,
    )


def _choose(backbone: Backbone, spec: FeatureSpec, encoder: Encoder, dtype: torch.dtype) -> Forward:
    """The forward to run, chosen on made-up texts long enough for a sliding window to show."""
    window = getattr(backbone.decoder.config, "sliding_window", None) or 0
    num_lines = max(SHORTEST_PROBE, window + 64)  # a token a line at least
    groups = []
    for number, prompt in enumerate(("Add two numbers.", "Read a list; print its largest item.")):
        ids = encoder.encode_prompt(prompt).ids
        texts = ["print(a + b)", "".join(f"x = {line}\n" for line in range(num_lines >> number))]
        outputs = [output.ids for output in encoder.encode_outputs(texts, len(ids))]
        groups.append(PromptGroup(prompt=ids, outputs=tuple(outputs), rows=(0, 1)))
    return choose_forward(backbone, spec, groups, dtype).forward
