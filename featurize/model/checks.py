"""What is checked of a backbone while it is loaded: that it is the right one and sound."""

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from featurize.settings import BackboneSettings


@torch.inference_mode()
def check_causal(decoder: PreTrainedModel, device: torch.device) -> None:
    """Raises ValueError when a token sees those on its right.

    Such a model's features would change with the padding and with the cut of the output.
    """
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=device)
    # One at a time: the two differ in nothing but the last token.
    first, second = (
        decoder(input_ids=row[None], use_cache=False).last_hidden_state[0, :-1].float()
        for row in ids
    )
    if (first - second).norm() > 1e-2 * first.norm():
        raise ValueError(
            f"{type(decoder).__name__}: its tokens see those on their right, so it is no language"
            " model that reads from left to right; give another models.policy.path"
        )


@torch.inference_mode()
def check_logits(
    model: PreTrainedModel,
    decoder: PreTrainedModel,
    to_logits: Callable[[Tensor], Tensor],
    device: torch.device,
) -> None:
    """Raises ValueError unless the logits made here are the model's own."""
    ids = torch.arange(4, device=device)[None]  # [1, 4]
    expected = model(input_ids=ids, use_cache=False).logits.float()
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.allclose(to_logits(hidden), expected, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__}: its logits are not its lm_head's alone, so the likelihood"
            " would be wrong; set featurize.likelihood to false"
        )


def check_complete(origin: Path, missing: Collection[str]) -> None:
    """Raises ValueError when weights are missing, which transformers would draw at random."""
    if missing:
        raise ValueError(
            f"{origin}: holds no {min(missing)!r}, one of {len(missing)} missing weights; fetch the"
            " whole model again"
        )


def check_params(settings: BackboneSettings, config: PreTrainedConfig, *, is_mtp: bool) -> None:
    """Raises ValueError when the model is not what `models.policy.params` says."""
    if settings.params is None:
        return
    found = {
        "dim": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": getattr(config, "num_key_value_heads", config.num_attention_heads),
        "intermediate_size": getattr(config, "intermediate_size", None),
        "rope_theta": _rope_theta(config),
        "vocab_size": config.vocab_size,
    }
    if not is_mtp:
        found |= {"n_layers": config.num_hidden_layers, "n_future_tokens": 1}
    elif settings.params.n_future_tokens:  # the loader has checked it against the weights
        found["n_layers"] = config.num_hidden_layers + _layers_beside(settings)
    for key, value in found.items():
        expected = getattr(settings.params, key)
        if expected is not None and value is not None and expected != value:
            raise ValueError(
                f"models.policy.params.{key} is {expected}, but the backbone at {settings.path} has"
                f" {value}; correct the one that is wrong"
            )


def _layers_beside(settings: BackboneSettings) -> int:
    """Layers Meta's params.json counts that the path taken does not run."""
    assert settings.params is not None
    heads = settings.params.n_future_tokens
    assert heads is not None
    return heads if settings.mtp_output == "trunk" else heads - 1


def _rope_theta(config: PreTrainedConfig) -> float | None:
    parameters = getattr(config, "rope_parameters", None) or {}
    theta = parameters.get("rope_theta", getattr(config, "rope_theta", None))
    return None if theta is None else float(theta)
