"""Reads a finished feature store: the sample table at once, tensors when they are asked for."""

import functools
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from featurize.store.format import FeatureStoreError, Manifest, Unit, read_manifest


class FeatureStore:
    """A finished store, opened for reading; tensors are mapped when they are first asked for."""

    def __init__(self, path: Path, manifest: Manifest, samples: pa.Table) -> None:
        """Use `FeatureStore.open`."""
        self.path = path
        self.manifest = manifest
        self.samples = samples  # one row a sample; feature_row counts through the whole store
        rows = [unit.feature_rows for unit in manifest.units]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._tensor = functools.cache(self._read_tensor)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Opens the store in `path`.

        Raises:
            FeatureStoreError: it is missing, unfinished or damaged; the message has the remedy.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            state = (
                "an unfinished feature store" if (path / "plan.json").exists() else "no features"
            )
            raise FeatureStoreError(
                f"{path}: {state}; run `critic featurize --split {path.name}` with the same config"
            )
        tables, start = [], 0
        for unit in manifest.units:
            table = _read_table(path, unit)
            rows = pa.array(table["feature_row"].to_numpy() + start)
            position = table.schema.get_field_index("feature_row")
            tables.append(table.set_column(position, "feature_row", rows))
            start += unit.feature_rows
        return cls(path, manifest, pa.concat_tables(tables))

    @property
    def tensor_names(self) -> list[str]:
        """The tensors every unit has, `<pooling>.<layer>`."""
        return list(self.manifest.tensors)

    @property
    def num_feature_rows(self) -> int:
        """Distinct (prompt, output) token sequences in the store."""
        return int(self._starts[-1])

    def gather(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of one tensor, in the order asked: [len(rows)] int64 -> [len(rows), width].

        Raises:
            FeatureStoreError: there is no such tensor, or its file is damaged.
            IndexError: a row is outside the store.
        """
        self._check_name(name)
        wanted = rows.detach().cpu().numpy().astype(np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.num_feature_rows):
            raise IndexError(f"feature rows must be in 0..{self.num_feature_rows - 1}")
        units = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(units, kind="stable")
        gathered: torch.Tensor | None = None
        for places in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
            if not len(places):
                continue
            unit = int(units[places[0]])
            local = torch.from_numpy(wanted[places] - self._starts[unit])
            part = self._tensor(unit, name)[local]
            if gathered is None:
                gathered = part.new_empty((len(wanted), part.shape[1]))
            gathered[torch.from_numpy(places)] = part
        return self._tensor(0, name)[:0].clone() if gathered is None else gathered

    def read(self, name: str) -> torch.Tensor:
        """One whole tensor [num_feature_rows, width]."""
        self._check_name(name)
        return torch.cat([self._tensor(unit, name) for unit in range(len(self.manifest.units))])

    def _check_name(self, name: str) -> None:
        if name not in self.manifest.tensors:
            raise FeatureStoreError(
                f"{self.path}: has no tensor {name!r}, only {', '.join(self.tensor_names)};"
                " name it in featurize.layers and featurize.poolings and featurize again"
            )

    def _read_tensor(self, unit: int, name: str) -> torch.Tensor:
        number = self.manifest.units[unit].number
        path = self.path / "units" / f"{number:05d}.safetensors"
        try:
            # NOTE: on CPU safetensors maps the file; only the pages that are read take memory.
            with safe_open(path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        rows = self.manifest.units[unit].feature_rows
        if len(tensor) != rows:
            raise _damaged(path, f"{len(tensor)} rows where the manifest says {rows}")
        return tensor


def _read_table(path: Path, unit: Unit) -> pa.Table:
    """The sample table of one unit, of the size the manifest says."""
    table_path = path / "units" / f"{unit.number:05d}.parquet"
    try:
        table = pq.read_table(table_path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(table_path, str(error)) from error
    if table.num_rows != unit.samples:
        raise _damaged(table_path, f"{table.num_rows} rows where the manifest says {unit.samples}")
    return table


def _damaged(path: Path, reason: str) -> FeatureStoreError:
    return FeatureStoreError(
        f"{path}: unreadable ({reason.splitlines()[0]}); delete manifest.json beside units/ and"
        " rerun `critic featurize`, which redoes only the damaged units"
    )
