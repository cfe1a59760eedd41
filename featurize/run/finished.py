"""Recognises a finished job by file sizes and times, without loading the backbone's libraries.

Planning a job imports torch and transformers and reads the backbone's config, which takes seconds.
After a run this module records the fingerprint of the store under a digest of the job, together
with size and time of every file the fingerprint depends on. If none of them has changed, the
fingerprint has not either.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.data.sources import find_sources
from featurize.io.files import digest, read_json, write_json
from featurize.run.job import FeaturizeJob
from featurize.store.manifest import Manifest, lost_files, read_manifest

if TYPE_CHECKING:
    from featurize.run.plan import FeaturizePlan

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
    manifest = read_manifest(job.store_dir) if is_same else None
    if manifest is None or manifest.fingerprint != record["fingerprint"]:
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
