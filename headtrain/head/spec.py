"""The shape of a value head: training, checkpoints and sweeps all build heads from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from headtrain.features.inputs import InputColumns
from headtrain.head.model import HeadModel
from headtrain.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """All that decides the shape of a head; head.json has these keys."""

    head_type: str
    """mlp or linear."""
    dropout: float
    """Used while training only."""
    tensors: Mapping[str, int]
    """Store tensors the head reads and their widths, in the order of its input."""
    likelihood: bool
    """Whether the four likelihood columns follow them."""
    head_width: int | None = None
    """Units of the mlp's first layer; None: an eighth of the inputs (mix: of the widest tensor)."""
    likelihood_direct: bool = False
    """Whether the likelihood columns also lead straight to the value."""
    feature_mix: str = "concat"
    """concat, or mix: a learned mix of the tensors (the likelihood is one more)."""

    @classmethod
    def of(cls, columns: InputColumns, training: TrainingSettings) -> Self:
        """The head that the settings describe, over these columns."""
        return cls(
            head_type=training.value_head_type,
            dropout=training.dropout,
            tensors=dict(zip(columns.tensors, columns.widths, strict=True)),
            likelihood=columns.likelihood,
            head_width=training.value_head_width,
            likelihood_direct=training.likelihood_direct and columns.likelihood,
            feature_mix=training.feature_mix,
        )

    @property
    def columns(self) -> InputColumns:
        """The input columns the head reads."""
        return InputColumns(
            tensors=tuple(self.tensors),
            widths=tuple(self.tensors.values()),
            likelihood=self.likelihood,
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of head.json."""
        return asdict(self)

    def make_model(self) -> HeadModel:
        """A model of this shape with uninitialised weights (those of torch's random state)."""
        columns = self.columns
        return HeadModel(
            columns.width,
            self.head_type,
            self.dropout,
            columns.blocks if self.feature_mix == "mix" else None,
            columns.num_direct if self.likelihood_direct else 0,
            self.head_width,
        )
