import importlib.util
from pathlib import Path

import pytest
import torch

from featurize.model.backbone import find_backbone, load_backbone
from featurize.model.quantization import quantization_config
from featurize.settings import BackboneSettings
from tests.support.plain_features import CPU
from tests.support.tiny_models import write_tiny_llama


def pretend_bitsandbytes(monkeypatch: pytest.MonkeyPatch, *, is_installed: bool) -> None:
    found = object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantization_without_its_library_is_refused(
    monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    pretend_bitsandbytes(monkeypatch, is_installed=False)
    with pytest.raises(ValueError, match=f"models.policy.quantization is '{bits}'") as caught:
        quantization_config(bits, torch.bfloat16)  # type: ignore[arg-type]
    assert "pip install bitsandbytes" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_backbone_that_cannot_be_quantized_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BackboneSettings(
        name="tiny", path=str(write_tiny_llama(tmp_path / "llama")), quantization="8bit"
    )
    source = find_backbone(settings, tmp_path, torch.float32)
    pretend_bitsandbytes(monkeypatch, is_installed=False)
    with pytest.raises(ValueError, match=r"^models\.policy\.quantization is '8bit'"):
        load_backbone(
            source,
            settings,
            device=CPU,
            dtype=torch.bfloat16,
            deepest_layer=3,
            with_lm_head=False,
        )


def test_bits_are_what_transformers_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_bitsandbytes(monkeypatch, is_installed=True)
    eight = quantization_config("8bit", torch.bfloat16)
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    four = quantization_config("4bit", torch.float16)
    assert (four.load_in_8bit, four.load_in_4bit) == (False, True)
    assert four.bnb_4bit_quant_type == "nf4"
    assert four.bnb_4bit_compute_dtype == torch.float16
