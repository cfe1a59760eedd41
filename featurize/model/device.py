"""Chooses the device and the number format of a run."""

import torch

from featurize.errors import CriticError


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        CriticError: cuda is asked for, but there is no CUDA device.
    """
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


def resolve_dtype(name: str, device: torch.device, *, mixed_precision: bool = True) -> torch.dtype:
    """Return the number format of a dtype setting; `auto` is bfloat16 on devices fast at it."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if mixed_precision and has_fast_bfloat16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16; emulation is several times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
