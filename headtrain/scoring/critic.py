"""A critic in a Python program: backbone and head together, from texts to values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from featurize.data.encoder import SampleEncoder
from featurize.data.fields import to_answer, to_text
from featurize.data.formats import Prompt
from featurize.data.messages import keep_turns, to_messages
from featurize.model import attention
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.budget import choose_token_budget
from featurize.model.device import resolve_device
from featurize.model.engine import Choice, Engine, choose_forward
from featurize.model.forward import FeatureSpec
from featurize.model.packing import Grouping, PromptGroup, group_samples
from featurize.model.source import load_tokenizer
from featurize.model.verdict import remembered_choice
from featurize.store import LIKELIHOOD_COLUMNS, user_cache_dir
from headtrain.features.inputs import InputColumns
from headtrain.head.checkpoint import TrainedHead, load_head
from headtrain.scoring.provenance import FoundBackbone, Provenance
from headtrain.scoring.scorer import Scorer, Scores

Conversation = Sequence[Mapping[str, str]]
"""Messages, each with `role` and `content`."""

MIN_PROBE_LENGTH = 256
"""Tokens of the sequences on which the forwards are compared, if the model has no window."""


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
    """Scores outputs of a prompt; the value of an output does not depend on the others."""

    def __init__(
        self, head: TrainedHead, encoder: SampleEncoder, engine: Engine, storage_dtype: torch.dtype
    ) -> None:
        """Use `Critic.load`."""
        self.head = head
        self._scorer = Scorer(head)
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
        where = resolve_device(device)
        cache = cache_dir or user_cache_dir()
        found = provenance.find(where, cache, [settings])
        spec = _narrow(found.recipe.spec, head.record.columns)
        prompt = provenance.prompt
        encoder = SampleEncoder(
            prompt if spec.question else replace(prompt, question=None),
            load_tokenizer(found.source, found.settings),
            max_length=provenance.dataset.max_length,
            max_prompt_length=provenance.dataset.prompt_limit,
        )
        spec = replace(spec, answers=encoder.suffix.answers)
        loaded = _load(found, spec, where)
        forward = provenance.featurize.forward
        if forward == "auto":
            dtype = found.recipe.compute_dtype
            forward = remembered_choice(
                cache / "forwards",
                lambda: _choose(loaded, spec, encoder, dtype),
                backbone=found.source.digest,
                spec=spec,
                device=where,
                dtype=dtype,
            ).forward
        size = sum(parameter.numel() for parameter in loaded.decoder.parameters())
        budget = choose_token_budget(
            provenance.featurize.token_budget, where, size, provenance.dataset.max_length
        )
        engine = Engine(loaded, spec, forward, budget.tokens)
        return cls(head, encoder, engine, found.recipe.storage_dtype)

    def score(
        self, prompt: str | Conversation, outputs: Sequence[str], input: str = ""
    ) -> list[float]:
        """Return the value of each output, higher if more likely correct.

        Compare values within a prompt only.

        Args:
            prompt: the problem, as datasets have it in `instruction`; the template is added. If the
                head's prompt.format is chat or jinja, also a list of messages.
            outputs: candidate solutions.
            input: what datasets have in `input`.

        Raises:
            ValueError: an output is empty, a text cannot be encoded as UTF-8, or the prompt is a
                conversation and the head's format has none.
        """
        scores = self._score(prompt, outputs, input)
        return [] if scores is None else [float(value) for value in scores.values]

    def judge(
        self, prompt: str | Conversation, outputs: Sequence[str], input: str = ""
    ) -> list[Verdict]:
        """Return value, probability and spread of each output; takes the arguments of `score`.

        Raises:
            CheckpointError: the head has no calibration.
            ValueError: as `score`.
        """
        self._scorer.check_calibration()
        scores = self._score(prompt, outputs, input)
        if scores is None:
            return []
        spreads = [None] * len(outputs) if scores.spreads is None else scores.spreads.tolist()
        return [
            Verdict(value=value, probability=probability, spread=spread)
            for value, probability, spread in zip(
                scores.values.tolist(), scores.probabilities.tolist(), spreads, strict=True
            )
        ]

    def _score(
        self, prompt: str | Conversation, outputs: Sequence[str], input_text: str
    ) -> Scores | None:
        """None without any output."""
        if isinstance(outputs, str):
            raise ValueError(f"outputs is one string ({outputs[:40]!r}); give a list of strings")
        if not outputs:
            return None
        grouping = self._encode(prompt, outputs, input_text)
        return self._scorer.score_outputs(self._features(grouping), grouping.row_of_sample)

    def _encode(
        self, prompt: str | Conversation, outputs: Sequence[str], input_text: str
    ) -> Grouping:
        texts = [to_answer(text, f"outputs[{place}]") for place, text in enumerate(outputs)]
        encoded = self._encoder.encode(self._to_prompt(prompt, input_text), texts)
        suffix = self._encoder.suffix
        return group_samples(
            ((encoded.prompt.ids, output.ids) for output in encoded.outputs),
            end=suffix.end,
            question=suffix.question,
        )

    def _to_prompt(self, prompt: str | Conversation, input_text: str) -> Prompt:
        text = to_text(input_text, "input")
        if isinstance(prompt, str) or not self._encoder.has_turns:
            return Prompt(to_text(prompt, "prompt"), text)
        kept = keep_turns(to_messages(list(prompt), "prompt"), "prompt")
        if isinstance(kept, str):
            return Prompt(kept, text)
        return Prompt("", text, tuple((one["role"], one["content"]) for one in kept))

    def _features(self, grouping: Grouping) -> torch.Tensor:
        """Compute the inputs of the head as a store would hold them: [rows, width]."""
        found = self._engine.run(grouping.groups, grouping.num_rows)
        columns = self.head.record.columns
        # NOTE: rounded as in a store: the head was trained on rounded features.
        blocks = [found.tensors[name].to(self._storage_dtype).float() for name in columns.tensors]
        if columns.likelihood:
            assert found.likelihood is not None, "the spec asks for it"
            blocks.append(found.likelihood[:, : len(LIKELIHOOD_COLUMNS)])
        features = torch.cat(blocks, dim=1)
        if not math.isfinite(features.sum()) and not bool(features.isfinite().all()):
            raise ValueError(
                "the backbone's features are NaN or inf; use a wider models.policy.dtype"
            )
        return features


def _narrow(spec: FeatureSpec, columns: InputColumns) -> FeatureSpec:
    """Reduce a recipe to what a head reads: layers above its deepest one need not run."""
    wanted = [name.rpartition(".") for name in columns.tensors]  # pooling, ".", layer
    return FeatureSpec(
        layers=tuple(layer for layer in spec.layers if str(layer) in {name[2] for name in wanted}),
        poolings=tuple(p for p in spec.poolings if p in {name[0] for name in wanted}),
        likelihood=columns.likelihood,
        question="question" in {name[0] for name in wanted},
    )


def _load(found: FoundBackbone, spec: FeatureSpec, device: torch.device) -> Backbone:
    attention.register()
    return load_backbone(
        found.source,
        found.settings,
        device=device,
        dtype=found.recipe.compute_dtype,
        deepest_layer=spec.deepest(found.recipe.num_layers),
        with_lm_head=bool(spec.columns),
    )


def _choose(
    backbone: Backbone, spec: FeatureSpec, encoder: SampleEncoder, dtype: torch.dtype
) -> Choice:
    """Choose the forward on made-up texts that are longer than a sliding window."""
    window = getattr(backbone.decoder.config, "sliding_window", None) or 0
    num_lines = max(MIN_PROBE_LENGTH, window + 64)  # at least a token per line
    groups: list[PromptGroup] = []
    for number, prompt in enumerate(("Add two numbers.", "Read a list; print its largest item.")):
        texts = ["print(a + b)", "".join(f"x = {line}\n" for line in range(num_lines >> number))]
        found = encoder.encode(Prompt(prompt), texts)
        pairs = ((found.prompt.ids, output.ids) for output in found.outputs)
        suffix = encoder.suffix
        groups += group_samples(pairs, end=suffix.end, question=suffix.question).groups
    return choose_forward(backbone, spec, groups, dtype)
