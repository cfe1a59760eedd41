"""Chooses the device and the number format of a run."""

import contextlib
import os
from collections.abc import Iterator

import torch

from featurize.errors import CriticError


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
