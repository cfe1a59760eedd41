"""The interface of a backbone family: one format of model files and how critic reads it."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from featurize.errors import CriticError
from featurize.model.families.files import model_files
from featurize.model.sharing import WHOLE, Sharing
from featurize.settings import BackboneSettings

RANDOM_SEED = 0
"""Seed of the weights of `models.policy.weights: random`."""

UNREADABLE = (
    OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError, UnpicklingError,
)  # fmt: skip
"""Errors that transformers raises on damaged files."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How much of a model to load, and how."""

    device: torch.device
    dtype: torch.dtype
    num_layers: int
    """Transformer blocks, counted from the first; a family may load all if that costs no more."""
    with_lm_head: bool
    sharing: Sharing = WHOLE


class Family(ABC):
    """A format of model files. To add one, derive from this and list it in `source.FAMILIES`."""

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Return whether a local file or folder has this format."""

    def weight_files(self, path: Path) -> list[Path]:
        """List the files whose digest identifies the model."""
        return model_files(path)

    def prepare(self, path: Path, cache_dir: Path, name: str, dtype: torch.dtype) -> Path:
        """Return the folder to load from, after converting `path` into `cache_dir` if necessary.

        `name` is the digest of the weights, `dtype` the number format of the forward pass.
        """
        return path

    @abstractmethod
    def read_config(self, folder: Path, settings: BackboneSettings) -> PreTrainedConfig:
        """Read the configuration without the weights."""

    @abstractmethod
    def load_tokenizer(
        self, folder: Path, tokenizer_folder: Path, settings: BackboneSettings
    ) -> PreTrainedTokenizerBase:
        """Load the tokenizer of the model in `folder` from `tokenizer_folder`."""

    @abstractmethod
    def load_model(
        self, folder: Path, settings: BackboneSettings, options: LoadOptions
    ) -> PreTrainedModel:
        """Load a causal language model, or only its decoder if no likelihood is asked for."""

    def output_of(self, settings: BackboneSettings) -> str | None:
        """Return which output of the model features come from; None if it has only one."""
        return None

    def layer_counts(self, config: PreTrainedConfig, settings: BackboneSettings) -> dict[str, int]:
        """Return the `models.policy.params` about layers, as the checkpoint itself counts them."""
        return {"n_layers": config.num_hidden_layers, "n_future_tokens": 1}


def draw_model(
    folder: Path, config: PreTrainedConfig, settings: BackboneSettings, options: LoadOptions
) -> PreTrainedModel:
    """Make the model with the random weights of a fixed seed; no weights are read.

    A GPU draws its own, in a moment instead of minutes; a recipe therefore names the device.
    """
    auto: Any = AutoModelForCausalLM
    try:
        with _seeded(options.device):
            # NOTE: always with the output matrix, so that the numbers do not depend on which
            # features are asked for.
            model: PreTrainedModel = auto.from_config(
                config, dtype=options.dtype, trust_remote_code=settings.trust_remote_code
            )
    except UNREADABLE as error:
        raise unreadable(folder, "backbone", error) from error
    model.to(options.device)  # type: ignore[arg-type]
    return model if options.with_lm_head else cast(PreTrainedModel, model.base_model)


@contextlib.contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Draw random numbers on a device from a fixed seed; afterwards its generator is as before."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_SEED)
            yield
        return
    with torch.random.fork_rng(devices=[device], device_type=device.type), torch.device(device):
        torch.get_device_module(device).manual_seed(RANDOM_SEED)
        yield


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Load a model without transformers' progress bars; afterwards they are as before."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def check_complete(path: Path, missing: Collection[str]) -> None:
    """Raise CriticError if weights are missing: transformers would draw them at random."""
    if missing:
        raise CriticError(
            f"{path}: {min(missing)!r} is missing ({len(missing)} missing weights); download the"
            " whole model again"
        )


def unreadable(path: Path, what: str, error: Exception) -> CriticError:
    """Make the error about files that a library cannot read, with the library's first line."""
    return CriticError(f"{path}: the {what} cannot be read ({first_line(error)})")


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, or the name of the error without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
