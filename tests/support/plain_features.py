"""Reference features: transformers' own forward, one sample at a time, no batch and no hook."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from featurize.model.attention import register
from featurize.model.backbone import Backbone
from featurize.model.forward import Features, FeatureSpec
from featurize.model.packing import PromptGroup
from featurize.store import LIKELIHOOD_COLUMNS
from tests.support.loaded_backbones import load


def load_tiny(folder: Path, spec: FeatureSpec, dtype: torch.dtype = torch.float32) -> Backbone:
    """Load the backbone of a folder as the job does, for `spec`."""
    register()
    deepest = spec.deepest(10**6)
    return load(folder, deepest_layer=deepest, with_lm_head=spec.likelihood, dtype=dtype)


def load_plain(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the same model with transformers alone."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model


def make_groups(lengths: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> list[PromptGroup]:
    """Make groups of random ids, given the lengths of each prompt and its outputs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 300, (length,), generator=generator).tolist())

    groups, row = [], 0
    for prompt, outputs in lengths:
        rows = tuple(range(row, row + len(outputs)))
        row += len(outputs)
        groups.append(
            PromptGroup(prompt=draw(prompt), outputs=tuple(map(draw, outputs)), rows=rows)
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
            found = {}
            for layer in spec.layers:
                tokens = result.hidden_states[layer][0, start:].double()  # [output tokens, hidden]
                for pooling in spec.poolings:
                    found[f"{pooling}.{layer}"] = _pool(tokens, pooling).float()
            found["likelihood"] = _likelihood(result.logits[0, start - 1 : -1], ids[0, start:])
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


def _pool(tokens: Tensor, pooling: str) -> Tensor:
    """[tokens, hidden] -> [hidden]."""
    if pooling == "last":
        return tokens[-1]
    if pooling == "max":
        return tokens.amax(dim=0)
    return tokens.mean(dim=0) if pooling == "mean" else tokens.std(dim=0, correction=0)


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
