"""Hidden states of a layer with outputs at given places, without a model."""

from torch import Tensor

from featurize.model.pooling import OutputStates


def make_states(hidden: Tensor, starts: Tensor, lengths: Tensor) -> OutputStates:
    """Outputs at `starts` of hidden [tokens, width], each after the last token of its prompt."""
    runs = zip(starts.tolist(), lengths.tolist(), strict=True)
    places = [place for start, length in runs for place in range(start, start + length)]
    return OutputStates(
        hidden=hidden,
        tokens=hidden[places],
        lengths=lengths,
        ends=starts + lengths - 1,
        before=starts - 1,
    )
