"""The settings of checkpoints: which heads of a run are kept, and where."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_STRICT_KEYS = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, config=_STRICT_KEYS)
class CheckpointSettings:
    """Which heads of a run are kept, and where."""

    save_dir: str
    """Folder of the run's checkpoints."""

    save_checkpoint_every: Positive | None = 0.2
    """Epochs between two checkpoints, each with a validation; null: only at the end."""

    save_best: bool = True
    """Keep the head with the highest validation accuracy over problems."""

    save_final: bool = True
    """Keep the head of the last step."""

    save_total_limit: PositiveInt | None = 2
    """At most so many step checkpoints (best and final are never deleted); null is all."""

    s3_upload: bool = False
    """Copy best and final to s3_uri when they are written; without s3_uri nothing is copied."""

    s3_uri: str | None = None
    """Where the copies go: any URI fsspec knows, e.g. s3://bucket/critic."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if not (self.save_best or self.save_final):
            raise ValueError(
                "save_best and save_final are both false: the run would leave no head; set one "
                "of them to true"
            )
        return self
