"""The token budget of a forward pass: asked for, or chosen by the size of the backbone."""

from dataclasses import dataclass

import torch

CPU_TOKENS = 8192
"""Enough for the products to run at their full speed on a CPU."""

CUDA_TOKENS = ((3e9, 16_384), (5e8, 32_768), (0, 65_536))
"""Parameters of a backbone at least, and the tokens of a forward pass: a small backbone needs more
tokens to keep a GPU busy."""


@dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """Tokens of one forward pass, and where the number comes from."""

    tokens: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens ({self.reason})"


def choose_token_budget(
    asked: int | None, device: torch.device, num_parameters: int | None, max_length: int
) -> TokenBudget:
    """Take the budget that is asked for, else choose one that the longest sample fits.

    Args:
        asked: `featurize.token_budget`.
        device: what the backbone runs on.
        num_parameters: of the backbone; None: unknown, taken for a large one.
        max_length: tokens of the longest sample.
    """
    if asked is not None:
        return TokenBudget(tokens=asked, reason="featurize.token_budget")
    if device.type != "cuda":
        return TokenBudget(tokens=max(CPU_TOKENS, max_length), reason=f"chosen for {device.type}")
    size = float("inf") if num_parameters is None else num_parameters
    tokens = next(tokens for least, tokens in CUDA_TOKENS if size >= least)
    known = "unknown size" if num_parameters is None else f"{num_parameters / 1e9:.1f}B parameters"
    return TokenBudget(tokens=max(tokens, max_length), reason=f"chosen for {known} on cuda")
