"""Runs a batch through the backbone and pools hidden states as the layers produce them."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils

from featurize.model.attention import SHARED_PROMPT, UnsupportedAttention
from featurize.model.backbone import Backbone
from featurize.model.batch import Batch
from featurize.model.decoder import check_attended, hidden_of, reset_frequencies
from featurize.model.likelihood import answer_logprobs, reduce_likelihood, token_likelihood
from featurize.model.pooling import POOLINGS, OutputStates, segment_means, segment_tokens
from featurize.settings import Pooling
from featurize.store.samples import ANSWER_COLUMNS, LIKELIHOOD_COLUMNS
from featurize.store.shards import SEGMENT_LOGPROB, SEGMENT_TOKENS, segments_name


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features to compute."""

    layers: tuple[int, ...]  # as transformers counts hidden states
    poolings: tuple[Pooling, ...]
    likelihood: bool
    segments: int | None = None  # of each output; None: none
    question: bool = False  # outputs are followed by one
    answers: tuple[int, int] | None = None  # ids of its answers; needed to compute, not to plan

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the sample table that are computed."""
        likelihood = LIKELIHOOD_COLUMNS if self.likelihood else ()
        return (*likelihood, *(ANSWER_COLUMNS if self.question else ()))

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors: `<pooling>.<layer>`, `question.<layer>`, and those of segments."""
        return list(self.widths(0))

    def widths(self, hidden_size: int) -> dict[str, int]:
        """Width of each tensor by name, for a backbone of that hidden size."""
        names = [*self.poolings, *(["question"] if self.question else [])]
        widths = {f"{name}.{layer}": hidden_size for layer in self.layers for name in names}
        if self.segments is not None:
            widths |= {segments_name(layer): self.segments * hidden_size for layer in self.layers}
            widths[SEGMENT_TOKENS] = self.segments
            if self.likelihood:
                widths[SEGMENT_LOGPROB] = self.segments
        return widths

    def deepest(self, num_layers: int) -> int:
        """Return the deepest layer that has to run."""
        return num_layers if self.columns else max(self.layers)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of rows: distinct outputs of a prompt, or prefixes of them."""

    tensors: dict[str, Tensor]  # name -> float32 [rows, width], see FeatureSpec.widths
    likelihood: Tensor | None  # float32 [rows, columns], in the order of FeatureSpec.columns

    def named(self) -> dict[str, Tensor]:
        """Return all tensors by name, the likelihood last."""
        more = {} if self.likelihood is None else {LIKELIHOOD: self.likelihood}
        return self.tensors | more

    @classmethod
    def of(cls, named: dict[str, Tensor]) -> "Features":
        """Make features of what `named` returned."""
        return cls(tensors=named, likelihood=named.pop(LIKELIHOOD, None))


LIKELIHOOD = "likelihood"
"""Name of the likelihood among the tensors of `Features.named`."""


@torch.inference_mode()
def forward_batch(backbone: Backbone, batch: Batch, spec: FeatureSpec) -> Features:
    """Compute the features of a batch, a row per output, on the device of the backbone.

    A batch with prefixes has a row per prefix. A question follows whole outputs only, so `spec`
    must not have one then.

    Layers are those of transformers' `hidden_states`: 0 is the input of the first block, k the
    output of block k, and the last one the output of the decoder, after the final norm.

    Raises:
        UnsupportedAttention: a pack for a model whose outputs cannot share a prompt.
    """
    if batch.layout is not None and backbone.unshareable is not None:
        raise UnsupportedAttention(backbone.unshareable)
    assert not (spec.question and batch.prefixes), "no question follows a prefix"
    if backbone.lengths.grows:
        reset_frequencies(backbone.decoder)
    pooled: dict[str, Tensor] = {}

    def take(layer: int, hidden: Tensor) -> None:
        pooled.update(_pool_layer(layer, hidden, batch, spec))

    options: dict[str, Any] = {"layout": batch.layout} if batch.layout is not None else {}
    attention = backbone.plain_attention if batch.layout is None else SHARED_PROMPT
    if backbone.decoder.config._attn_implementation != attention:
        backbone.decoder.set_attn_implementation(attention)
    are_single = single_sequences() if batch.layout is None else contextlib.nullcontext()
    with _hooks(backbone, spec.layers, take), are_single:
        final = backbone.decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **options,
        ).last_hidden_state
    if batch.layout is not None:
        check_attended(backbone.decoder, backbone.blocks, batch.layout)
    if backbone.num_layers in spec.layers:
        take(backbone.num_layers, final)
    return _to_features(pooled, final, batch, backbone, spec)


@torch.inference_mode()
def features_of_states(
    states: Mapping[int, Tensor], batch: Batch, spec: FeatureSpec, backbone: Backbone | None
) -> Features:
    """Compute the features of a batch from hidden states that were computed elsewhere.

    Args:
        states: layer -> [batch, length, hidden], as transformers counts hidden states; the last
            one after the final norm.
        backbone: for its lm_head; needed only if `spec` has columns.
    """
    pooled: dict[str, Tensor] = {}
    for layer in spec.layers:
        pooled |= _pool_layer(layer, states[layer], batch, spec)
    final = None if backbone is None else states.get(backbone.num_layers)
    return _to_features(pooled, final, batch, backbone, spec)


def _pool_layer(layer: int, hidden: Tensor, batch: Batch, spec: FeatureSpec) -> dict[str, Tensor]:
    """The tensors of a layer, from its hidden states [batch, length, hidden]."""
    states = OutputStates.of(hidden, batch)
    pooled = {f"{pooling}.{layer}": POOLINGS[pooling](states) for pooling in spec.poolings}
    if spec.question:
        pooled[f"question.{layer}"] = states.hidden[batch.asked].float()
    if spec.segments is not None:
        pooled[segments_name(layer)] = segment_means(states.tokens, batch, spec.segments)
    return pooled


def _to_features(
    pooled: dict[str, Tensor],
    final: Tensor | None,
    batch: Batch,
    backbone: Backbone | None,
    spec: FeatureSpec,
) -> Features:
    """Add what needs no layer or the last one's states, [batch, length, hidden]."""
    if spec.segments is not None:
        pooled[SEGMENT_TOKENS] = segment_tokens(batch, spec.segments)
    if not spec.columns:
        return Features(tensors=pooled, likelihood=None)
    assert backbone is not None, "its lm_head gives the columns"
    assert final is not None, "the columns need the last layer"
    flat = final.flatten(0, 1)
    columns = []
    if spec.likelihood:
        logprob, entropy = token_likelihood(flat, batch, backbone.logits)
        columns.append(reduce_likelihood(logprob, entropy, batch))
        if spec.segments is not None:
            pooled[SEGMENT_LOGPROB] = segment_means(logprob[:, None], batch, spec.segments)
    if spec.question:
        assert spec.answers is not None, "whoever asks knows the answers"
        columns.append(answer_logprobs(flat, batch, backbone.logits, spec.answers))
    return Features(tensors=pooled, likelihood=torch.cat(columns, dim=1))


@contextlib.contextmanager
def _hooks(
    backbone: Backbone, layers: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Call `take(layer, hidden)` for every layer below the last when it has run."""
    handles = []
    for layer in layers:
        if layer == 0:
            # Not the output of the embedding table: some models scale it before the first block.
            def before(
                _block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int = layer
            ) -> None:
                take(layer, args[0] if args else kwargs["hidden_states"])

            handles.append(backbone.blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        elif layer < backbone.num_layers:

            def after(_block: Any, _args: Any, output: Any, layer: int = layer) -> None:
                take(layer, hidden_of(output))

            handles.append(backbone.blocks[layer - 1].register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_is_known: ContextVar[bool] = ContextVar("rows are single sequences", default=False)


@contextlib.contextmanager
def single_sequences() -> Iterator[None]:
    """In the block, in this thread alone, transformers takes each row of a batch for one sequence.

    Without a mask, its `create_causal_mask` compares the position ids of a batch on the device to
    find out whether its rows hold several sequences each, and the host waits for that.
    """
    _teach()
    token = _is_known.set(True)
    try:
        yield
    finally:
        _is_known.reset(token)


@functools.cache
def _teach() -> None:
    """Make transformers' search return at once inside `single_sequences`; elsewhere unchanged."""
    module: Any = masking_utils
    search: Callable[..., Any] | None = getattr(module, "find_packed_sequence_indices", None)
    if search is None:
        return

    @functools.wraps(search)
    def unless_known(*args: Any, **options: Any) -> Any:
        return None if _is_known.get() else search(*args, **options)

    module.find_packed_sequence_indices = unless_known
