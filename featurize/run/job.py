"""A featurize job: what is asked for, who follows it, its summary, and whether it is finished.

NOTE: imports neither torch nor transformers, so that a finished job is recognised within a second.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import TypeAdapter

from featurize.data.sources import find_sources
from featurize.io.files import digest, read_json, write_json
from featurize.io.remote import is_remote
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    PromptSettings,
    RuntimeSettings,
)
from featurize.store.manifest import Manifest, lost_files, read_manifest

if TYPE_CHECKING:
    from featurize.run.plan import FeaturizePlan

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

    @classmethod
    def of_finished(cls, job: FeaturizeJob, manifest: Manifest) -> Self:
        """The summary of a job that had nothing left to do."""
        return cls(
            store_dir=job.store_dir,
            counts=manifest.counts,
            num_resumed_units=len(manifest.units),
            seconds=0.0,
            was_up_to_date=True,
        )

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
            "samples with a truncated prompt": counts["prompts_truncated"],
            "samples with a truncated output": counts["outputs_truncated"],
            "prompts": counts["prompts"],
            "unique tokens": counts["unique_tokens"],
            "tokens without sharing": counts["all_tokens"],
            "units resumed": self.num_resumed_units,
            "seconds": f"{self.seconds:,.1f}",
        }


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Adds the counts of all units."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


class Reporter(Protocol):
    """Follows a job."""

    def planned(self, plan: "FeaturizePlan") -> None:
        """The plan, before anything is computed."""

    def note(self, text: str) -> None:
        """One line worth reading."""

    def advance(self, tokens: int) -> None:
        """Unique tokens that all ranks have computed so far."""


# --- whether a job is finished
#
# Planning a job imports torch and transformers and reads the backbone's config; it takes seconds.
# After a run the fingerprint of the store is recorded under a digest of the job, with size and time
# of every file that it depends on. If none of them has changed, the fingerprint has not either.

_LIBRARIES = ("critic", "torch", "transformers", "tokenizers")
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def find_finished(job: FeaturizeJob) -> Manifest | None:
    """The manifest of a finished store of this job; None if a plan has to find out.

    Raises:
        FeatureStoreError: the manifest is damaged.
    """
    path = _path_of(job)
    if job.repair or not path.exists():
        return None
    try:
        record = read_json(path)
        is_same = record["files"] == _stat(record["files"]) and record["sources"] == _sources(job)
    except (ValueError, OSError, KeyError, TypeError):
        return None  # damaged, or a file is gone: the plan reports it
    return finished_store(job, record["fingerprint"]) if is_same else None


def finished_store(job: FeaturizeJob, fingerprint: str) -> Manifest | None:
    """The manifest of a store of this fingerprint that has all its files, by their sizes.

    None if there is no such store, or if the job is to repair it.

    Raises:
        FeatureStoreError: the manifest is damaged.
    """
    manifest = None if job.repair else read_manifest(job.store_dir)
    if manifest is None or manifest.fingerprint != fingerprint:
        return None
    return None if lost_files(job.store_dir, manifest) else manifest


def remember_finished(plan: "FeaturizePlan") -> None:
    """Record that the store of a plan is finished."""
    write_json(
        _path_of(plan.job),
        {
            "fingerprint": plan.fingerprint,
            "files": _stat(_backbone_files(plan)),
            "sources": _sources(plan.job),
        },
    )


def _path_of(job: FeaturizeJob) -> Path:
    asked = job.to_dict()
    for name in ("command", "repair"):
        del asked[name]
    return job.cache_dir / "finished" / f"{digest([asked, _machine()])}.json"


def _machine() -> dict[str, Any]:
    """What `auto` settings and the digests of libraries depend on."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text().split() if cpu.exists() else []
    return {
        "libraries": {name: version(name) for name in _LIBRARIES},
        "cpu": [flag for flag in _CPU_FLAGS if flag in flags],
        "gpu": [Path("/dev/nvidia0").exists(), os.environ.get("CUDA_VISIBLE_DEVICES")],
    }


def _backbone_files(plan: "FeaturizePlan") -> Iterator[str]:
    """Files that the digests of the backbone and its tokenizer were computed from."""
    from featurize.model.families.files import model_files, tokenizer_files

    yield from map(str, plan.source.weight_files)
    yield from map(str, model_files(plan.source.folder))
    yield from map(str, tokenizer_files(plan.source.tokenizer_folder))
    yield from map(str, plan.source.tokenizer_folder.glob("chat_template*"))


def _stat(files: Iterable[str]) -> Mapping[str, list[int]]:
    """Size and time of files, as JSON."""
    found = {file: Path(file).stat() for file in files}
    return {file: [stat.st_size, stat.st_mtime_ns] for file, stat in found.items()}


def _sources(job: FeaturizeJob) -> list[list[Any]]:
    """The dataset's files as they are now."""
    paths = job.dataset.path_of(job.split)
    sources = find_sources(paths, job.cache_dir / "index")
    return [[source.path, *source.state] for source in sources]
