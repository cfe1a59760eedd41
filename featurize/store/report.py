"""What was found in a store, as lines to show and as one line about what is wrong with it."""

from dataclasses import dataclass
from typing import Any

from featurize.errors import FeatureStoreError
from featurize.store.format import repair_command

TENSOR_COLUMNS = ("tensor", "width", "least norm", "mean norm", "largest norm", "rows with NaN/inf")


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """The numbers of one tensor, over all rows that can be read."""

    width: int
    least_norm: float  # Euclidean, of a row
    mean_norm: float
    largest_norm: float
    num_bad: int  # rows with a NaN or inf


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """What was found."""

    path: str
    recipe: dict[str, Any]
    fingerprint: str
    command: str | None  # what made it
    num_units: int
    num_unfinished: int  # units of it that are not there yet; without a manifest only
    counts: dict[str, int]
    bytes_of: dict[str, int]  # by kind of file
    labels: dict[str, int]  # of the samples
    tensors: dict[str, TensorFacts]
    damaged: dict[int, str]  # unit -> what is wrong with it
    were_checksums_read: bool
    damaged_table: str | None = None  # what is wrong with the table of all samples

    def describe(self) -> dict[str, Any]:
        """The lines of the table."""
        recipe, counts = dict(self.recipe), dict(self.counts)
        backbone = recipe.pop("backbone", None)
        if isinstance(backbone, dict):
            backbone = ", ".join(f"{key} {value}" for key, value in backbone.items())
        num_finished = self.num_units - self.num_unfinished
        lines = {
            "made by": self.command,
            "fingerprint": self.fingerprint,
            "backbone": backbone,
            **{name.replace("_", " "): _show(value) for name, value in recipe.items()},
            "units": f"{num_finished:,} of {self.num_units:,}",
            **{name.replace("_", " "): value for name, value in counts.items()},
            **self.labels,
            **{name: f"{size / 1e6:,.1f} MB" for name, size in self.bytes_of.items()},
        }
        if self.num_unfinished:
            return lines
        whole = "all as written" if self.were_checksums_read else "not read (--verify reads them)"
        damaged = len(self.damaged) + self.is_table_damaged
        return lines | {"checksums": f"{damaged:,} damaged" if damaged else whole}

    def describe_tensors(self) -> list[tuple[Any, ...]]:
        """The rows of the table of tensors, under TENSOR_COLUMNS."""
        return [
            (name, f.width, f.least_norm, f.mean_norm, f.largest_norm, f.num_bad)
            for name, f in self.tensors.items()
        ]

    @property
    def is_table_damaged(self) -> bool:
        """Whether the table of all samples is not as it was written; those of the units may be."""
        return self.damaged_table is not None

    @property
    def remedy(self) -> str:
        """The command that redoes what is damaged or missing, and nothing else."""
        if self.command is None:
            return f"`{repair_command(self.path)}` with the config it was made with"
        is_damaged = self.damaged or self.is_table_damaged
        return f"`{self.command} --repair`" if is_damaged else f"`{self.command}`"

    def check(self) -> None:
        """Raises FeatureStoreError unless the store is whole."""
        bad = [name for name, facts in self.tensors.items() if facts.num_bad]
        if self.damaged or self.is_table_damaged:
            found = [f"unit {number} ({reason})" for number, reason in sorted(self.damaged.items())]
            found += [] if self.damaged_table is None else [self.damaged_table]
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise FeatureStoreError(
                f"{self.path}: damaged: {', '.join(found[:3])}{more}; redo only that with"
                f" {self.remedy}"
            )
        if self.num_unfinished:
            raise FeatureStoreError(
                f"{self.path}: {self.num_unfinished} of {self.num_units} units are not finished;"
                f" go on with {self.remedy}"
            )
        if bad:
            raise FeatureStoreError(
                f"{self.path}: NaN or inf in {', '.join(bad)}; make it again with --overwrite"
            )


def _show(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
