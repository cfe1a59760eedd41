"""Which device and number format a run computes with."""

import torch

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: cuda is asked for where there is none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ValueError(
            "runtime.device is 'cuda', but torch sees no CUDA device here; use --set"
            " runtime.device=auto (or cpu), or install a CUDA build of torch"
        )
    if name == "cpu" or not has_cuda:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def resolve_dtype(name: str, device: torch.device, *, mixed_precision: bool = True) -> torch.dtype:
    """The number format for a dtype setting; `auto` is 16 bits where that is the faster one."""
    if name != "auto":
        return _DTYPES[name]
    return torch.bfloat16 if mixed_precision and has_fast_bfloat16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware; emulated, they are several times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
