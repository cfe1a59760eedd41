"""The manifest of a store: what it is, what it was made from, and the files it consists of.

NOTE: imports neither torch nor pyarrow, so that a finished store is recognised within a second.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.errors import FeatureStoreError
from featurize.io.remote import open_folder

FORMAT_VERSION = 1

SAMPLES_FILE = "samples.parquet"
"""In a store of many units: the sample tables of all units as one."""


class DamagedFileError(FeatureStoreError):
    """A file of a finished unit is missing or has changed."""

    def __init__(self, store: Path | str, file: str, reason: str | Exception) -> None:
        what = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        self.reason = f"{file}: {what}".splitlines()[0]
        super().__init__(
            f"{store}: damaged ({self.reason}); {repair_command(store)} redoes only that"
        )


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A finished unit."""

    number: int
    samples: int
    feature_rows: int
    files: dict[str, dict[str, Any]]  # file name -> {"bytes": int, "checksum": hex}
    counts: dict[str, int]  # what happened to its samples: truncated, duplicate, tokens, ...


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished store: what it was made from, and the files it consists of."""

    format_version: int
    fingerprint: str  # recipe + dataset content
    recipe_fingerprint: str  # the recipe alone: equal for the train and valid stores of one run
    recipe: dict[str, Any]  # backbone, tokenizer, template, truncation, layers, poolings, dtypes
    tensors: dict[str, int]  # name -> width
    dtype: str
    counts: dict[str, int]
    units: list[Unit]
    sample_table: dict[str, Any] | None = (
        None  # bytes and checksum of SAMPLES_FILE, if there is one
    )
    imported: dict[str, Any] | None = None
    """Where the features come from, if no pass over the dataset computed them."""

    def to_dict(self) -> dict[str, Any]:
        """The content of manifest.json."""
        fields = dataclasses.asdict(self)
        if self.imported is None:  # as in stores of earlier versions
            del fields["imported"]
        return fields

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Files in `units/` except receipts: name -> {"bytes": int, "checksum": hex}."""
        files = {name: file for unit in self.units for name, file in unit.files.items()}
        return files if self.sample_table is None else files | {SAMPLES_FILE: self.sample_table}


def read_manifest(store: Path | str) -> Manifest | None:
    """Read the manifest of a store at a path or URI; None if the store is not finished.

    Raises:
        FeatureStoreError: it is damaged or of a format this version cannot read.
    """
    content = open_folder(store).read("manifest.json")
    return None if content is None else parse_manifest(store, content)


def parse_manifest(store: Path | str, content: bytes) -> Manifest:
    """Parse the content of manifest.json.

    Raises:
        FeatureStoreError: it is damaged or of a format this version cannot read.
    """
    where = f"{store}/manifest.json"
    try:
        fields = json.loads(content)
        if fields.get("format_version") != FORMAT_VERSION:
            raise FeatureStoreError(
                f"{where}: format version {fields.get('format_version')!r}, this version"
                f" reads {FORMAT_VERSION}; make the features again with `critic featurize`"
            )
        fields["units"] = [Unit(**unit) for unit in fields["units"]]
        manifest = Manifest(**fields)
        _check_types(manifest)
        return manifest
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FeatureStoreError(
            f"{where}: damaged ({error}); {repair_command(store)} writes it again and keeps the"
            " finished units"
        ) from error


def _check_types(manifest: Manifest) -> None:
    """Raise TypeError if a value of damaged JSON is of another type, or a count is negative."""
    texts = {name: getattr(manifest, name) for name in ("fingerprint", "recipe_fingerprint")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}")
    if not isinstance(manifest.recipe, dict):
        raise TypeError(f"recipe is {manifest.recipe!r}")
    _check_numbers("tensors", manifest.tensors)
    _check_numbers("counts", manifest.counts)
    for unit in manifest.units:
        numbers = {"samples": unit.samples, "feature_rows": unit.feature_rows}
        _check_numbers("units", {"number": unit.number, **numbers, **unit.counts})
    for name, file in manifest.files.items():
        _check_numbers(name, {"bytes": file["bytes"]})
        if not isinstance(file["checksum"], str):
            raise TypeError(f"checksum of {name} is {file['checksum']!r}")


def _check_numbers(where: str, numbers: dict[str, int]) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < 0:
            raise TypeError(f"{name} of {where} is {value!r}")


def lost_files(store: Path | str, manifest: Manifest) -> dict[str, str]:
    """Files of a finished store that are missing or have another size: name -> what is wrong."""
    sizes = open_folder(store).sizes("units")
    return {
        name: "missing" if name not in sizes else f"{sizes[name]:,} bytes of {file['bytes']:,}"
        for name, file in manifest.files.items()
        if sizes.get(name) != file["bytes"]
    }


def repair_command(store: Path | str) -> str:
    """The command that repairs a store: the one that made it, if the store knows it.

    Otherwise by its place: the name of its folder is that of its split or file.
    """
    folder, _, split = str(store).rstrip("/").rpartition("/")
    if folder.endswith("random-backbone"):
        commands = f"`rm -r {store}` and then `critic eval --baseline random-backbone`"
    elif command := _command_of(store):
        return f"`{command} --repair`"
    elif split.startswith("data-"):
        commands = "`critic score FILE --out FILE --repair` or `critic eval --data FILE --repair`"
    else:
        commands = f"`critic featurize --split {split} --repair`"
    return f"{commands} with the same config"


def _command_of(store: Path | str) -> str | None:
    try:
        command: str | None = json.loads(open_folder(store).read("plan.json") or b"{}")["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return command
