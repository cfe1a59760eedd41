"""A featurize job as it is requested, and the summary of its run.

NOTE: imports neither torch nor transformers, so that a finished job is recognised within a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from featurize.io.files import digest
from featurize.io.remote import is_remote
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    PromptSettings,
    RuntimeSettings,
)

SHARED_IDS, BOTH_LABELS = "shared_problem_ids", "both_labels"
APART, STRIPPED = "outputs_apart", "thinking_stripped"
WITHOUT_STATES, UNUSED_DUMPS = "without_states", "dumps_unused"
"""Counts that a store has only where they are not 0."""

RARE_COUNTS = {
    SHARED_IDS: "problem ids with several statements",
    BOTH_LABELS: "same tokens as a sample of the other label",
    STRIPPED: "outputs whose thinking was removed",
    APART: "outputs with other tokens if joined to the prompt",
    WITHOUT_STATES: "not selected: no hidden states",
    UNUSED_DUMPS: "dumps that no sample needs",
}
"""What a summary calls them."""


@dataclass(frozen=True, kw_only=True)
class FeaturizeJob:
    """What to featurize, with what, and where to."""

    backbone: BackboneSettings
    dataset: DatasetSettings
    featurize: FeaturizeSettings
    runtime: RuntimeSettings
    split: str
    store_dir: Path | str  # a folder or a URI
    cache_dir: Path
    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    limit_problems: int | None = None
    needs_labels: bool = True  # refuse labels that cannot be read
    repair: bool = False  # compare checksums of finished units
    selection_settings: dict[str, Any] | None = None  # what a selection of samples depends on
    command: str = ""  # what a person ran; kept with the store

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON."""
        plain: dict[str, Any] = TypeAdapter(FeaturizeJob).dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "FeaturizeJob":
        """The job that `to_dict` gave."""
        return TypeAdapter(FeaturizeJob).validate_python(fields)

    @property
    def writing_dir(self) -> Path:
        """Local folder of the units: the store itself, or the place they are uploaded from."""
        if not is_remote(self.store_dir):
            return Path(self.store_dir)
        return self.cache_dir / "stores" / digest(str(self.store_dir))


@dataclass(frozen=True, kw_only=True)
class FeaturizeSummary:
    """The result of a run: every row it read is counted once."""

    store_dir: Path | str
    counts: dict[str, int]
    """Of the whole run; empty on ranks that are not the first."""
    num_resumed_units: int
    seconds: float
    was_up_to_date: bool = False

    def describe(self) -> dict[str, Any]:
        """The lines of the table shown at the end; every row that was read is in it once."""
        counts = self.counts
        return {
            "samples read": counts["read"],
            "featurized": counts["feature_rows"],
            "duplicates of those": counts["duplicates"],
            "not selected": counts["not_selected"],
            **({"pairs planned": counts["pairs"]} if "pairs" in counts else {}),
            **{name: counts[key] for key, name in RARE_COUNTS.items() if key in counts},
            "prompts cut (samples)": counts["prompts_truncated"],
            "outputs cut": counts["outputs_truncated"],
            "prompts": counts["prompts"],
            "unique tokens": counts["unique_tokens"],
            "tokens without sharing": counts["all_tokens"],
            "units resumed": self.num_resumed_units,
            "seconds": f"{self.seconds:,.1f}",
        }
