"""The shape of a value head, from which training, sweeps and checkpoints build their models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from headtrain.features.inputs import InputColumns, SegmentLayout
from headtrain.settings import SEGMENT_HEADS, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Everything that determines the shape of a head; the fields are keys of head.json."""

    head_type: str
    """mlp, linear, gated or attention."""
    dropout: float
    """Used only during training."""
    tensors: Mapping[str, int]
    """Store tensors that the head reads and their widths, in input order."""
    likelihood: bool
    """Whether the four likelihood columns follow the tensors."""
    head_width: int | None = None
    """Units of the mlp's first layer; None: an eighth of the inputs (mix: of the widest tensor)."""
    likelihood_direct: bool = False
    """Whether a linear term of the likelihood columns is added to the value."""
    feature_mix: str = "concat"
    """concat, or mix: a learned mix of the tensors (the likelihood is one more)."""

    segment_value: str = "linear"
    """linear or mlp: the value of a state in a gated or attention head."""

    @classmethod
    def of(cls, columns: InputColumns, training: TrainingSettings) -> Self:
        """Describe the head of these settings over these columns; a closed form is linear."""
        is_closed = training.is_closed_form
        return cls(
            head_type="linear" if is_closed else training.value_head_type,
            dropout=training.dropout,
            tensors=dict(zip(columns.tensors, columns.widths, strict=True)),
            likelihood=columns.likelihood,
            head_width=training.value_head_width,
            likelihood_direct=training.likelihood_direct and columns.likelihood and not is_closed,
            feature_mix="concat" if is_closed else training.feature_mix,
            segment_value=training.segment_value,
        )

    @property
    def columns(self) -> InputColumns:
        """The input columns that the head reads."""
        return InputColumns(
            tensors=tuple(self.tensors),
            widths=tuple(self.tensors.values()),
            likelihood=self.likelihood,
        )

    @property
    def mixed_blocks(self) -> tuple[int, ...]:
        """Widths of the column blocks that the head mixes; empty for concat."""
        return self.columns.blocks if self.feature_mix == "mix" else ()

    @property
    def num_direct(self) -> int:
        """Number of last columns with a linear term of their own."""
        return self.columns.num_direct if self.likelihood_direct else 0

    @property
    def layout(self) -> SegmentLayout | None:
        """Layout of the segments within the inputs; None unless the head reads segments."""
        if self.head_type not in SEGMENT_HEADS:
            return None
        *widths, num_segments = self.tensors.values()
        return SegmentLayout(
            num_layers=len(widths),
            num_segments=num_segments,
            width=widths[0] // num_segments,
        )

    @property
    def num_units(self) -> int:
        """Units of the mlp's first layer."""
        if self.head_width is not None:
            return self.head_width
        if (layout := self.layout) is not None:
            return layout.width * (layout.num_layers if self.head_type == "gated" else 1) // 8
        return max(self.mixed_blocks or (self.columns.width,)) // 8

    @property
    def shape(self) -> tuple[Any, ...]:
        """What heads must have in common to be computed as one batch of heads."""
        columns = self.columns
        inputs = self.mixed_blocks or (columns.width, columns.num_direct)
        shape = (self.head_type, self.head_width, self.likelihood_direct, self.feature_mix, inputs)
        return shape if self.layout is None else (*shape, self.layout, self.segment_value)
