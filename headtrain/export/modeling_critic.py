"""The model code of an exported critic: copied into the export, so it imports nothing of critic."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput


class CriticConfig(PreTrainedConfig):
    """The backbone's configuration, and what the value head reads."""

    model_type = "critic"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        tensors: dict[str, int] | None = None,
        likelihood: bool = False,
        units: list[int] | None = None,
        num_members: int = 1,
        num_direct: int = 0,
        feature_dtype: str = "float32",
        response_mark: list[int] | None = None,
        max_tokens: int = 0,
        vocabulary: int = 0,
        template: str = "",
        template_with_input: str = "",
        calibration: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("num_labels", 1)
        super().__init__(**kwargs)
        self.backbone = backbone or {}
        self.tensors = tensors or {}  # "pooling.layer" -> width, in the order of the inputs
        self.likelihood = likelihood
        self.units = units or [1]  # outputs of the layers of the head
        self.num_members = num_members
        self.num_direct = num_direct
        self.feature_dtype = feature_dtype  # features are rounded to it, as in training
        self.response_mark = response_mark or []  # token ids that end every prompt
        self.max_tokens = max_tokens  # tokens of prompt and output
        self.vocabulary = vocabulary  # tokens of the backbone, without an added one for padding
        self.template = template
        self.template_with_input = template_with_input
        self.calibration = calibration


def _std(tokens: Tensor) -> Tensor:
    return (tokens - tokens.mean(0)).square().mean(0).sqrt()


POOLINGS = {
    "mean": lambda tokens: tokens.mean(0),
    "last": lambda tokens: tokens[-1],
    "max": lambda tokens: tokens.amax(0),
    "std": _std,
}
"""Functions of the output tokens' states, float32 [tokens, width] -> [width]."""


class ValueHead(nn.Module):
    """Normaliser, gates, linear layers with GELU between them, and the direct linear term."""

    mean: Tensor
    scale: Tensor
    gates: Tensor
    direct: Tensor

    def __init__(self, width: int, units: list[int], num_direct: int) -> None:
        super().__init__()
        for name, value in (("mean", 0.0), ("scale", 1.0), ("gates", 1.0)):
            self.register_buffer(name, torch.full((width,), value))
        self.register_buffer("direct", torch.zeros(num_direct))
        sizes = [width, *units]
        self.layers = nn.ModuleList(
            nn.Linear(size, into, bias=False) for size, into in itertools.pairwise(sizes)
        )

    def forward(self, features: Tensor) -> Tensor:
        """[..., width] -> [..., 1]."""
        normalised = (features - self.mean) / self.scale
        hidden = normalised * self.gates
        for place, layer in enumerate(self.layers):
            hidden = layer(hidden if place == 0 else nn.functional.gelu(hidden))
        if len(self.direct):
            hidden = hidden + (normalised[..., -len(self.direct) :] @ self.direct)[..., None]
        return hidden


class CriticForSequenceClassification(PreTrainedModel):
    """Values of outputs: one logit per sequence of a prompt and an output."""

    config_class = CriticConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def __init__(self, config: CriticConfig) -> None:
        super().__init__(config)
        inner = AutoConfig.for_model(**config.backbone)
        kind: Any = AutoModelForCausalLM if config.likelihood else AutoModel
        self.backbone = kind.from_config(inner)
        width = sum(config.tensors.values()) + 4 * config.likelihood
        self.heads = nn.ModuleList(
            ValueHead(width, config.units, config.num_direct) for _ in range(config.num_members)
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def encode(self, tokenizer: Any, prompt: str, output: str, input: str = "") -> dict[str, Any]:
        """Tokenise a prompt and an output apart, as in training: inputs of `forward`."""
        template = self.config.template_with_input if input else self.config.template
        before, _, after = template.partition("{instruction}")
        text = before + prompt + after.replace("{input}", input)
        ids = list(tokenizer(text)["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
        more = tokenizer(output, add_special_tokens=False)["input_ids"]
        row = torch.tensor([(ids + list(more))[: self.config.max_tokens]])
        return {
            "input_ids": row.to(self.device),
            "attention_mask": torch.ones_like(row, device=self.device),
            "output_starts": torch.tensor([len(ids)]),
        }

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_starts: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Compute values [batch, 1].

        Args:
            input_ids: [batch, tokens], padded left or right.
            attention_mask: 1 for tokens, 0 for padding; default: by the padding token.
            output_starts: [batch], tokens of each prompt without padding; default: the output
                starts after the first response mark.

        Raises:
            ValueError: an output has no tokens, or a sequence no response mark.
        """
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        places = (attention_mask.cumsum(1) - 1).clamp(min=0)
        found = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=places,
            output_hidden_states=True,
            use_cache=False,
        )
        rows = []
        for row, mask in enumerate(attention_mask.bool()):
            ids = input_ids[row][mask]
            start = self._start(ids.tolist()) if output_starts is None else int(output_starts[row])
            if not 0 < start < len(ids):
                raise ValueError(f"sequence {row} has no output tokens after its prompt")
            states = [layer[row][mask] for layer in found.hidden_states]
            logits = None
            if self.config.likelihood:
                logits = found.logits[row][mask][:, : self.config.vocabulary].float()
            rows.append(self._features(states, logits, ids, start))
        features = torch.stack(rows)
        values = torch.stack([head.float()(features) for head in self.heads]).mean(0)
        if return_dict is False:
            return (values,)
        return SequenceClassifierOutput(logits=values)

    def _start(self, ids: list[int]) -> int:
        # NOTE: the first mark, not the last: an output must not be able to move its own start.
        mark = self.config.response_mark
        for place in range(len(ids) - len(mark) + 1):
            if ids[place : place + len(mark)] == mark:
                return place + len(mark)
        raise ValueError(
            "a sequence has no response mark, so its output is not known; use encode() or give "
            "output_starts"
        )

    def _features(
        self, states: list[Tensor], logits: Tensor | None, ids: Tensor, start: int
    ) -> Tensor:
        blocks = []
        for name in self.config.tensors:
            pooling, _, layer = name.rpartition(".")
            pooled = POOLINGS[pooling](states[int(layer)][start:].float())
            blocks.append(pooled.to(getattr(torch, self.config.feature_dtype)).float())
        if logits is not None:
            logprobs = logits[start - 1 : -1].log_softmax(-1)
            of_tokens = logprobs.gather(1, ids[start:, None]).squeeze(1)
            entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
            numbers = [of_tokens.sum(), of_tokens.mean(), of_tokens.min(), entropy]
            blocks.append(torch.stack(numbers))
        return torch.cat(blocks)
