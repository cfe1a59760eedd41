"""Writes the best sample of each task in the format of the harness it came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from featurize.data.sources import Source
from featurize.errors import DataError
from featurize.io.files import atomic_path
from headtrain.scoring.files import join_rows

FIELD = "harness"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How many samples were chosen among how many."""

    tasks: int
    samples: int

    def describe(self) -> dict[str, int]:
        """List the numbers by name."""
        return {"tasks (one sample each)": self.tasks, "samples to choose from": self.samples}


def write_best(out: Path, sources: Sequence[Source], rows: pa.Table, score: str) -> Chosen:
    """Write the sample of each task with the highest score; of equal ones, the first.

    Args:
        out: .jsonl, or .json for LiveCodeBench, whose evaluator reads a list.
        sources: files written by `critic prepare human-eval` and the like.
        rows: their scores, as `to_rows` gives them.
        score: the column of `rows`.

    Raises:
        DataError: a row has no sample of a harness, or `out` the wrong ending.
    """
    best: dict[str, tuple[float, Any]] = {}
    names, num_samples = set(), 0
    for line, fields in join_rows(sources, rows):
        row = orjson.loads(line)
        if FIELD not in row:
            raise DataError(
                f"{sources[0].name}: row {num_samples + 1} has no field {FIELD!r}; --best takes"
                " files of `critic prepare human-eval`, evalplus, livecodebench or lm-eval"
            )
        names.add(row[FIELD]["name"])
        num_samples += 1
        task, value = row["problem_id"], float(fields[score])
        if task not in best or value > best[task][0]:
            best[task] = (value, row[FIELD]["sample"])
    ending = ".json" if names == {"livecodebench"} else ".jsonl"
    if not out.name.endswith(ending):
        raise DataError(f"--out {str(out)!r}: {', '.join(names)} reads {ending}; name such a file")
    samples = [sample for _, sample in best.values()]
    with atomic_path(out) as temporary:
        if ending == ".json":
            temporary.write_bytes(orjson.dumps(samples))
        else:
            temporary.write_bytes(b"".join(orjson.dumps(sample) + b"\n" for sample in samples))
    return Chosen(tasks=len(best), samples=num_samples)
