"""Likelihood of outputs under the backbone: log-probabilities and entropy of their tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from featurize.model.batch import Batch
from featurize.model.pooling import segment_index

CHUNK_TOKENS = 256
"""Output tokens whose logits are in memory at once: 256 x 150,000 floats take 150 MB."""


def output_likelihood(
    hidden: Tensor, batch: Batch, to_logits: Callable[[Tensor], Tensor]
) -> Tensor:
    """Compute the likelihood of each output given its prompt.

    Args:
        hidden: final hidden states, flat [tokens, hidden].
        batch: the positions of the outputs; a token is predicted by the one before it, the first
            token of an output by the last of its prompt.
        to_logits: [tokens, hidden] -> float32 [tokens, vocabulary].

    Returns:
        float32 [outputs, 4] in the order of LIKELIHOOD_COLUMNS: sum, mean and minimum over the
        output's tokens of log p(token | before) in nats, and the mean entropy of those
        distributions.
    """
    tokens = segment_index(batch.starts, batch.lengths)  # [output tokens]
    predictors = tokens - 1
    firsts = batch.lengths.cumsum(0) - batch.lengths
    predictors[firsts] = batch.before
    targets = batch.input_ids.flatten()[tokens]
    logprobs, entropies = [], []
    for places, wanted in zip(
        predictors.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True
    ):
        logits = to_logits(hidden[places])  # [chunk, vocabulary]
        log_sum = logits.logsumexp(dim=1)
        logprobs.append(logits.gather(1, wanted[:, None]).squeeze(1) - log_sum)
        # H = log Z - E[logit]
        weights = (logits - log_sum[:, None]).exp_()
        entropies.append(log_sum - (weights * logits).sum(dim=1))
    logprob, entropy = torch.cat(logprobs), torch.cat(entropies)

    def reduce(values: Tensor, how: str) -> Tensor:
        return torch.segment_reduce(values, how, lengths=batch.lengths, axis=0)

    return torch.stack(
        [
            reduce(logprob, "sum"),
            reduce(logprob, "mean"),
            reduce(logprob, "min"),
            reduce(entropy, "mean"),
        ],
        dim=1,
    )
