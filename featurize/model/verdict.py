"""Remembers which forward a backbone allows, so that loading it again skips the comparison.

The comparison runs hundreds of tokens through the model twice. Its result depends only on the
model, the libraries, the device and the number format, whose digest is the name of the file.
"""

import contextlib
import logging
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from featurize.io.files import digest, read_json, write_json
from featurize.model.agreement import Choice
from featurize.model.forward import FeatureSpec

PROBE_VERSION = 2
"""Raise it when `choose_forward` compares otherwise: verdicts of an earlier one do not count."""

_LIBRARIES = ("critic", "torch", "transformers")

logger = logging.getLogger(__name__)


def remembered_choice(
    folder: Path,
    choose: Callable[[], Choice],
    *,
    backbone: str,
    spec: FeatureSpec,
    device: torch.device,
    dtype: torch.dtype,
) -> Choice:
    """Return the choice that `choose` made under the same conditions before, else let it choose.

    Args:
        folder: folder of the verdicts; if it cannot be written to, nothing is remembered.
        choose: compares the forwards (`choose_forward`).
        backbone: digest of the weights.
        spec: the features that are compared.
        device: the device of the backbone.
        dtype: number format of the forward pass.
    """
    conditions = {
        "probe": PROBE_VERSION,
        "backbone": backbone,
        "tensors": spec.tensor_names,
        "likelihood": spec.likelihood,
        **({"question": spec.question} if spec.question else {}),
        "device": _device_name(device),
        "dtype": str(dtype),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    path = folder / f"{digest(conditions)}.json"
    if (known := _read(path, conditions)) is not None:
        return known
    choice = choose()
    with contextlib.suppress(OSError):
        write_json(path, {**conditions, "forward": choice.forward, "reason": choice.reason})
    return choice


def _read(path: Path, conditions: dict[str, Any]) -> Choice | None:
    try:
        found = read_json(path)
        if all(found[name] == value for name, value in conditions.items()):
            return Choice(forward=found["forward"], reason=found["reason"])
    except (ValueError, OSError, KeyError, TypeError):
        logger.debug("%s: no usable verdict", path)
    return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {sorted(torch.cpu.get_capabilities().items())}"
