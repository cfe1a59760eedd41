"""Reference features: transformers' own forward, one sample at a time, no batch and no hook."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from featurize.model.attention import register
from featurize.model.backbone import Backbone
from featurize.model.forward import Features, FeatureSpec
from featurize.model.packing import PromptGroup
from featurize.store.samples import LIKELIHOOD_COLUMNS
from featurize.store.shards import segments_name
from tests.support.loaded_backbones import load


def load_tiny(folder: Path, spec: FeatureSpec, dtype: torch.dtype = torch.float32) -> Backbone:
    """Load the backbone of a folder as the job does, for `spec`."""
    register()
    deepest = spec.deepest(10**6)
    return load(folder, deepest_layer=deepest, with_lm_head=bool(spec.columns), dtype=dtype)


def load_plain(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the same model with transformers alone."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model


def make_groups(
    lengths: Sequence[tuple[int, Sequence[int]]],
    seed: int = 0,
    *,
    end: tuple[int, ...] = (),
    question: tuple[int, ...] = (),
) -> list[PromptGroup]:
    """Make groups of random ids, given the lengths of each prompt and its outputs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 300, (length,), generator=generator).tolist())

    groups, row = [], 0
    for prompt, outputs in lengths:
        rows = tuple(range(row, row + len(outputs)))
        row += len(outputs)
        groups.append(
            PromptGroup(
                prompt=draw(prompt),
                outputs=tuple(draw(length) + end + question for length in outputs),
                rows=rows,
                num_end=len(end),
                num_question=len(question),
            )
        )
    return groups


def count_rows(groups: Sequence[PromptGroup]) -> int:
    return sum(len(group.rows) for group in groups)


@torch.no_grad()
def plain_features(
    model: PreTrainedModel, groups: Sequence[PromptGroup], spec: FeatureSpec
) -> Features:
    """Compute what the engine must find, row by row."""
    rows: dict[int, dict[str, Tensor]] = {}
    for group in groups:
        for row, output in zip(group.rows, group.outputs, strict=True):
            ids = torch.tensor([group.prompt + output])  # [1, tokens]
            result = model(input_ids=ids, output_hidden_states=True)
            start = len(group.prompt)
            end = ids.shape[1] - group.num_question
            stop = end - group.num_end
            found = {}
            for layer in spec.layers:
                states = result.hidden_states[layer][0].double()  # [tokens, hidden]
                for pooling in spec.poolings:
                    pooled = _pool(states[start - 1], states[start:stop], states[end - 1], pooling)
                    found[f"{pooling}.{layer}"] = pooled.float()
                if spec.segments is not None:
                    means = _segment_means(states[start:stop], spec.segments)
                    found[segments_name(layer)] = means.flatten().float()
                if spec.question:
                    found[f"question.{layer}"] = states[-1].float()
            logits, targets = result.logits[0, start - 1 : stop - 1], ids[0, start:stop]
            columns = _likelihood(logits, targets)
            if spec.segments is not None:
                found["segment_tokens"] = _segment_tokens(len(targets), spec.segments)
                chosen = logits.double().log_softmax(dim=1).gather(1, targets[:, None])
                found["segment_logprob"] = _segment_means(chosen, spec.segments).flatten().float()
            if spec.answers is not None:
                answers = result.logits[0, -1].double().log_softmax(dim=0)[list(spec.answers)]
                columns = torch.cat([columns, answers.float()])
            found["likelihood"] = columns
            rows[row] = found
    return Features(
        tensors={
            name: torch.stack([rows[row][name] for row in sorted(rows)])
            for name in spec.tensor_names
        },
        likelihood=torch.stack([rows[row]["likelihood"] for row in sorted(rows)]),
    )


def largest_error(found: Features, expected: Features) -> float:
    """Return the largest relative error of a row; of zero rows (std of one token), absolute."""
    assert found.tensors.keys() == expected.tensors.keys()
    pairs = [(found.tensors[name], expected.tensors[name]) for name in expected.tensors]
    if found.likelihood is not None and expected.likelihood is not None:
        pairs.append((found.likelihood, expected.likelihood))
    errors: list[float] = []
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert ours.isfinite().all()
        norms = theirs.norm(dim=1)
        scale = torch.where(norms > 0, norms, torch.ones_like(norms))
        errors.append(float(((ours - theirs).norm(dim=1) / scale).max()))
    return max(errors)


def _pool(before: Tensor, tokens: Tensor, end: Tensor, pooling: str) -> Tensor:
    """[hidden] before the output, [tokens, hidden] of it, [hidden] at its end -> [hidden]."""
    if pooling in ("last", "first", "delta"):
        return {"last": end, "first": before, "delta": end - before}[pooling]
    if pooling == "max":
        return tokens.amax(dim=0)
    return tokens.mean(dim=0) if pooling == "mean" else tokens.std(dim=0, correction=0)


def _segments(num_tokens: int, num_segments: int) -> list[slice]:
    """Segment k ends before the token of the first whole number from (k + 1) n / K on."""
    ends = [math.ceil(Fraction(num_tokens * k, num_segments)) for k in range(num_segments + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def _segment_tokens(num_tokens: int, num_segments: int) -> Tensor:
    pieces = _segments(num_tokens, num_segments)
    return torch.tensor([float(piece.stop - piece.start) for piece in pieces])


def _segment_means(tokens: Tensor, num_segments: int) -> Tensor:
    """[tokens, width] -> [segments, width]."""
    pieces = [tokens[piece] for piece in _segments(len(tokens), num_segments)]
    return torch.stack(
        [piece.mean(dim=0) if len(piece) else torch.zeros_like(tokens[0]) for piece in pieces]
    )


def _likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [tokens, vocabulary] for targets [tokens] -> [4], as LIKELIHOOD_COLUMNS says."""
    logprobs = logits.double().log_softmax(dim=1)
    chosen = logprobs[torch.arange(len(targets)), targets]
    entropy = -(logprobs.exp() * logprobs).sum(dim=1)
    values = {
        "logprob_sum": chosen.sum(),
        "logprob_mean": chosen.mean(),
        "logprob_min": chosen.min(),
        "entropy_mean": entropy.mean(),
    }
    return torch.stack([values[name] for name in LIKELIHOOD_COLUMNS]).float()
