"""A stand-in for torch's variable-length kernel, which needs a GPU."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


class Kernel:
    """torch.nn.attention.varlen.varlen_attn in plain float32, by its documentation."""

    def __init__(self, *, lse_heads_first: bool = True) -> None:
        self.lse_heads_first = lse_heads_first
        self.num_calls = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        return_aux: Any = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        num_splits: int | None = None,
    ) -> Any:
        """query [tokens, heads, width]; bounds int32 [sequences + 1], one for queries and keys."""
        self.num_calls += 1
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert len(cu_seq_q) == len(cu_seq_k)
        assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
        assert len(key) == len(value)
        assert int(cu_seq_q.diff().max()) == max_q
        assert int(cu_seq_k.diff().max()) == max_k
        assert all(tensor.is_contiguous() for tensor in (query, key, value))
        assert window_size == (-1, -1) or window_size[1] == 0
        assert not enable_gqa or query.shape[1] != key.shape[1]
        repeats = query.shape[1] // key.shape[1]
        outputs, sums = [], []
        for (q0, q1), (k0, k1) in zip(
            pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True
        ):
            k = key[k0:k1].float().repeat_interleave(repeats, dim=1)
            v = value[k0:k1].float().repeat_interleave(repeats, dim=1)
            assert scale is not None
            scores = torch.einsum("qhd,khd->hqk", query[q0:q1].float(), k) * scale
            if window_size[1] == 0:
                past = torch.arange(k0 - k1 + q1 - q0, q1 - q0) - torch.arange(q1 - q0)[:, None]
                limit = window_size[0] if window_size[0] >= 0 else k1 - k0
                scores = scores.masked_fill((past > 0) | (past < -limit), float("-inf"))
            outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(dim=2), v))
            sums.append(scores.logsumexp(dim=2))  # [heads, queries]
        output = torch.cat(outputs).to(query.dtype)
        lse = torch.cat(sums, dim=1)
        if return_aux is None:
            return output
        assert return_aux.lse
        return output, lse if self.lse_heads_first else lse.T.contiguous()
