"""Segments: the tokens of an output in a fixed number of stretches of almost equal length.

Of K segments of an output of n tokens the first k have ceil(k n / K) tokens, so the first one is
never empty; of a shorter output than K some others are. The mean over an empty segment is 0.
The mean over the first k segments, weighted by their tokens, is that of a prefix of the output.
Nothing here makes the host wait for a GPU.
"""

import torch
from torch import Tensor

from featurize.model.batch import Batch, Prefixes
from featurize.model.pooling import reduce_rows


def segment_ends(lengths: Tensor, num_segments: int) -> Tensor:
    """Tokens up to the end of each segment: int64 [rows] -> int64 [rows, segments + 1], from 0."""
    places = torch.arange(num_segments + 1, device=lengths.device)
    return (lengths[:, None] * places + num_segments - 1) // num_segments


def segment_tokens(batch: Batch, num_segments: int) -> Tensor:
    """Count the tokens of each segment of every row of a batch: float32 [rows, segments]."""
    lengths = batch.lengths if batch.prefixes is None else batch.prefixes.lengths
    return segment_ends(lengths, num_segments).diff(dim=1).float()


def segment_means(tokens: Tensor, batch: Batch, num_segments: int) -> Tensor:
    """Average over the segments of every row of a batch, in float32.

    Args:
        tokens: [output tokens, width], one output after another.
        batch: whose outputs they are; with prefixes there is a row for each of them.
        num_segments: K.

    Returns:
        float32 [rows, segments * width]: one segment after another.
    """
    pieces = segment_ends(batch.lengths, num_segments).diff(dim=1)  # [outputs, segments]
    sums = reduce_rows(tokens.float(), pieces.flatten(), "sum")
    means = (sums / pieces.flatten().clamp_min(1)[:, None]).view(len(pieces), -1)
    if batch.prefixes is None:
        return means
    of_prefixes = _of_prefixes(tokens, batch.lengths, batch.prefixes, num_segments)
    of_prefixes[batch.prefixes.wholes] = means  # as without prefixes, to the last bit
    return of_prefixes


def _of_prefixes(tokens: Tensor, lengths: Tensor, prefixes: Prefixes, num_segments: int) -> Tensor:
    """Average over the segments of prefixes, from cumulative sums in float64."""
    cumulative = torch.cat([tokens.new_zeros((1, tokens.shape[1])), tokens]).double().cumsum(0)
    starts = (lengths.cumsum(0) - lengths)[prefixes.outputs]  # [prefixes] place in `tokens`
    ends = segment_ends(prefixes.lengths, num_segments)
    sums = cumulative[starts[:, None] + ends].diff(dim=1)  # [prefixes, segments, width]
    return (sums / ends.diff(dim=1).clamp_min(1)[:, :, None]).flatten(1).float()
