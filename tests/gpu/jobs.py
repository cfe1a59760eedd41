"""Featurize jobs over text that is on every machine, for a backbone whose weights are drawn."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from featurize.run.job import FeaturizeJob
from featurize.settings import BackboneSettings, DatasetSettings, FeaturizeSettings, RuntimeSettings
from tests.gpu.models import VOCAB_OF_TEXTS, write_config
from tests.support.tiny_models import make_tokenizer
from tests.support.workloads import source_text, write_problems


@dataclass
class Notes:
    """Follows a job: when how many tokens were done, and its notes."""

    progress: list[tuple[float, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def planned(self, plan: Any) -> None:
        """Nothing is kept of the plan."""

    def note(self, text: str) -> None:
        """Keep a line."""
        self.notes.append(text)

    def advance(self, tokens: int) -> None:
        """Keep the time of so many tokens."""
        self.progress.append((time.perf_counter(), tokens))

    @property
    def tokens_per_second(self) -> float:
        """Rate between the first report and the last."""
        (started, first), (ended, last) = self.progress[0], self.progress[-1]
        return (last - first) / (ended - started) if ended > started else 0.0


def make_job(
    folder: Path,
    shape: str,
    device: torch.device,
    *,
    problems: int,
    is_tiny: bool,
    dtype: Any = "auto",
    **featurize: Any,
) -> FeaturizeJob:
    """Write model folder, tokenizer and samples; returns the job that featurizes them."""
    model = folder / "model"
    write_config(model, shape)
    text = source_text(100_000 if is_tiny else 2_000_000)
    vocab = 512 if is_tiny else VOCAB_OF_TEXTS
    make_tokenizer(text.splitlines(keepends=True), vocab).save_pretrained(model)
    candidates, prompts = (3, (15, 60)) if is_tiny else (8, (150, 600))
    samples = write_problems(folder / "samples.jsonl", problems, candidates, prompts, text)
    settings = {"unit_tokens": 600 if is_tiny else 65536, "token_budget": 8192} | featurize
    return FeaturizeJob(
        backbone=BackboneSettings(name=shape, path=str(model), dtype=dtype),
        dataset=DatasetSettings(name="stdlib", train=str(samples), max_length=2048),
        featurize=FeaturizeSettings(**settings),
        runtime=RuntimeSettings(device="cuda" if device.type == "cuda" else "cpu"),
        split="train",
        store_dir=folder / "store",
        cache_dir=folder / "cache",
    )
