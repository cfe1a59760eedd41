"""Chooses what a run computes with: its device, number format, and tokens of a forward pass."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from featurize.errors import CriticError

CPU_TOKENS = 8192
"""Enough for the products to run at their full speed on a CPU."""

CUDA_TOKENS = ((3e9, 16_384), (5e8, 32_768), (0, 65_536))
"""Parameters of a backbone at least, and the tokens of a forward pass: a small backbone needs more
tokens to keep a GPU busy."""


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        CriticError: the name is another one, or cuda is asked for and there is no CUDA device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise CriticError(f"the device is {name!r}; it must be auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise CriticError(
            "runtime.device is 'cuda', but torch sees no CUDA device here; use --set"
            " runtime.device=auto (or cpu), or install a CUDA build of torch"
        )
    if name == "cpu" or not has_cuda:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def use_device(device: torch.device) -> None:
    """Make a CUDA device the current one of this thread.

    Each thread has its own: pinned memory, Triton and bitsandbytes take the current device, and a
    process would else open a context on the first one too.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


@contextlib.contextmanager
def extends_memory(device: torch.device) -> Iterator[None]:
    """Have torch extend its blocks of GPU memory, which passes of unlike sizes need.

    torch reads the variable when it first allocates on a GPU; what the user has set stays.
    """
    name = "PYTORCH_CUDA_ALLOC_CONF"
    if device.type != "cuda" or {"PYTORCH_ALLOC_CONF", name} & os.environ.keys():
        yield
        return
    os.environ[name] = "expandable_segments:True"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def resolve_dtype(name: str, device: torch.device, *, mixed_precision: bool = True) -> torch.dtype:
    """Return the number format of a dtype setting.

    `auto` is bfloat16 on devices fast at it, float16 on GPUs that are fast at float16 alone, and
    float32 elsewhere.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if mixed_precision and has_fast_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if mixed_precision and _has_only_float16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16; emulation is several times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _has_only_float16(device: torch.device) -> bool:
    """Return whether a GPU multiplies 16-bit numbers fast, but only float16: V100 and T4."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return (7, 0) <= torch.cuda.get_device_capability(device) < (8, 0)


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

    A backbone of an unknown number of parameters is taken for a large one.
    """
    if asked is not None:
        return TokenBudget(tokens=asked, reason="featurize.token_budget")
    if device.type != "cuda":
        return TokenBudget(tokens=max(CPU_TOKENS, max_length), reason=f"chosen for {device.type}")
    size = float("inf") if num_parameters is None else num_parameters
    tokens = next(tokens for least, tokens in CUDA_TOKENS if size >= least)
    known = "unknown size" if num_parameters is None else f"{num_parameters / 1e9:.1f}B parameters"
    return TokenBudget(tokens=max(tokens, max_length), reason=f"chosen for {known} on cuda")
