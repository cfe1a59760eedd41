"""Likelihood under the backbone: of the tokens of outputs, and of answers about them."""

from collections.abc import Callable

import torch
from torch import Tensor

from featurize.model.batch import Batch
from featurize.model.pooling import reduce_outputs

CHUNK_TOKENS = 256
"""Output tokens whose logits are in memory at once: 256 x 150,000 floats take 150 MB."""

CUDA_CHUNK_TOKENS = 1024
"""The same on a GPU, where small products leave it idle: 1024 x 150,000 floats take 600 MB."""


def chunk_tokens(device: torch.device) -> int:
    """Return how many output tokens have their logits in memory at once."""
    return CUDA_CHUNK_TOKENS if device.type == "cuda" else CHUNK_TOKENS


def token_likelihood(
    hidden: Tensor, batch: Batch, to_logits: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Compute the likelihood of each token of the outputs given all before it.

    Args:
        hidden: final hidden states, flat [tokens, hidden].
        batch: the positions of the outputs; a token is predicted by the one before it, the first
            token of an output by the last of its prompt.
        to_logits: [tokens, hidden] -> float32 [tokens, vocabulary].

    Returns:
        log p(token | before) and the entropy of that distribution, both in nats and float32
        [output tokens], one output after another.
    """
    targets = batch.input_ids.flatten()[batch.outputs]  # [output tokens]
    size = chunk_tokens(hidden.device)
    parts = [
        of_tokens(to_logits(hidden[places]), wanted)
        for places, wanted in zip(batch.predictors.split(size), targets.split(size), strict=True)
    ]
    logprob, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprob, entropy


def reduce_likelihood(logprob: Tensor, entropy: Tensor, batch: Batch) -> Tensor:
    """Reduce the likelihood of tokens, [output tokens] each, to that of outputs or prefixes.

    Returns:
        float32 [rows, 4] in the order of LIKELIHOOD_COLUMNS: sum, mean and minimum over the tokens
        of log p(token | before) in nats, and the mean entropy of those distributions.
    """
    columns = ((logprob, "sum"), (logprob, "mean"), (logprob, "min"), (entropy, "mean"))
    found = [reduce_outputs(one, batch.lengths, batch.prefixes, how) for one, how in columns]
    return torch.stack(found, dim=1)


def answer_logprobs(
    hidden: Tensor,
    batch: Batch,
    to_logits: Callable[[Tensor], Tensor],
    answers: tuple[int, int],
) -> Tensor:
    """Compute the log-probability of both answers to the question after each output.

    The arguments are those of `token_likelihood`, and the ids of the answers.

    Returns:
        float32 [outputs, 2] in the order of ANSWER_COLUMNS, in nats.
    """
    # NOTE: columns by number; a tensor of ids would be copied to a GPU, which waits for that.
    parts = [
        torch.stack([logits[:, one] for one in answers], dim=1)
        - logits.logsumexp(dim=1, keepdim=True)
        for logits in map(to_logits, hidden[batch.asked].split(chunk_tokens(hidden.device)))
    ]
    return torch.cat(parts)


def plain_of_tokens(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log-probability and entropy, [chunk] each.

    Args:
        logits: float32 [chunk, vocabulary].
        wanted: int64 [chunk], the tokens that follow.
    """
    log_sum = logits.logsumexp(dim=1)
    logprob = logits.gather(1, wanted[:, None]).squeeze(1) - log_sum
    # H = log Z - E[logit]
    weights = (logits - log_sum[:, None]).exp_()
    return logprob, log_sum - (weights * logits).sum(dim=1)


of_tokens: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = plain_of_tokens
"""What computes it: the plain function, or its compiled form (see `featurize.model.blocks`)."""
