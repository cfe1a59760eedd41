"""What runs where, as the plan says it."""

from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, Gemma3TextConfig, LlamaConfig, MistralConfig

from featurize.model.attention import describe_attention
from tests.support.loaded_backbones import CPU

CUDA = torch.device("cuda", 0)
LLAMA = LlamaConfig(hidden_size=576, num_attention_heads=9)
WIDE = LlamaConfig(hidden_size=400, num_attention_heads=4)


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def describe(config: Any, device: torch.device = CUDA, **options: Any) -> str:
    options = {"dtype": torch.bfloat16, "forward": "packed", "max_length": 2048} | options
    return describe_attention(config, device, **options)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LLAMA, "head width 64, no window: packed, flash kernel"),
        (
            WIDE,
            "head width 100, no window: packed, one call per prompt and output (heads are 100 wide",
        ),
        (
            DeepseekV3Config(),
            "head width 192, no window: packed, one call per prompt and output (keys",
        ),
        (
            MistralConfig(sliding_window=4096),
            "head width 128, window of 4096 tokens (never reached): packed, flash",
        ),
        (
            Gemma3TextConfig(sliding_window=512),
            "head width 256, window of 512 tokens: packed, flash kernel",
        ),
    ],
)
def test_heads_and_windows_decide_the_kernel(config: Any, line: str) -> None:
    assert describe(config).startswith(f"cuda, bfloat16, {line}")


def test_the_device_and_the_number_format_decide_it_too() -> None:
    on_cpu = describe(LLAMA, CPU)
    assert on_cpu.endswith("packed, one call per prompt and output (no flash kernel on cpu)")
    assert "float32 is not a 16-bit format" in describe(LLAMA, dtype=torch.float32)


def test_the_forward_that_is_asked_for_is_named() -> None:
    assert describe(LLAMA, forward="padded") == (
        "cuda, bfloat16: padded, a copy of the prompt per output (featurize.forward)"
    )
    assert describe(LLAMA, forward="auto").endswith("flash kernel; padded if the check fails")
