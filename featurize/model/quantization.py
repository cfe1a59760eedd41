"""Loading a backbone's weights in 4 or 8 bits, through the library transformers uses for it."""

import importlib.util
from typing import Literal

import torch
from transformers import BitsAndBytesConfig


def quantization_config(bits: Literal["4bit", "8bit"], dtype: torch.dtype) -> BitsAndBytesConfig:
    """The configuration that makes transformers quantise while it loads.

    Raises:
        ValueError: the library is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"models.policy.quantization is {bits!r}, which needs the library bitsandbytes; run"
            " `pip install bitsandbytes`, or set models.policy.quantization to null"
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
