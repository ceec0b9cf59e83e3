"""Context parallelism: each rank has a part of every sequence, and gathers all keys and values.

A causal sequence is cut into twice as many pieces as there are ranks; rank i of n has pieces i and 2n - 1 - i.
An early piece looks at little and a late one at much, so each rank has the same work (the zigzag of Llama 3,
arXiv:2407.21783, section 3.3.2, whose all-gather of keys and values this is as well). Memory for activations
goes down n-fold: a layer's keys and values are whole only while its attention is computed, and gathered again
for the backward pass.

torch.distributed.tensor.experimental.context_parallel is not used: it is made for the flash and efficient
kernels of CUDA only (its dispatch table names no other), so that nothing of it could be proven on a laptop.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.utils.checkpoint import checkpoint

from jobs.parallel import versions


def positions(time: int, rank: int, ranks: int) -> Tensor:
    """Positions of a sequence of `time` that a rank has, in the order in which it has them."""
    pieces = torch.arange(time).chunk(2 * ranks)
    return torch.cat((pieces[rank], pieces[2 * ranks - 1 - rank]))


class Gather(torch.autograd.Function):
    """Every rank's tensor, stacked in front; the gradient of a rank's own is the sum of what all found."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: Any) -> Tensor:
        ctx.group = group
        every = mine.new_empty((dist.get_world_size(group), *mine.shape))
        versions.all_gather(every, mine.contiguous()[None], group)
        return every

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        every = gradients[0].contiguous()
        mine = torch.empty_like(every[:1])
        versions.reduce_scatter(mine, every, ctx.group)
        return mine[0], None


class Attend:
    """Causal attention of this rank's two pieces to all that comes before them: `Attention.attend`."""

    def __init__(self, group: Any) -> None:
        self.group, self.rank, self.ranks = group, dist.get_rank(group), dist.get_world_size(group)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attended: Tensor = checkpoint(self._attend, q, k, v, use_reentrant=False)
        return attended

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All (batch, heads, time / ranks, size); queries stay, keys and values are gathered in one message."""
        every = Gather.apply(torch.stack((k, v)), self.group)  # (ranks, 2, batch, heads, 2 pieces, size)
        early, late = every.chunk(2, dim=-2)
        whole = torch.cat(
            (*early, *late.flip(0)), dim=-2
        )  # the late pieces lie in the reverse order of ranks
        parts = []
        for piece, queries in zip(
            (self.rank, 2 * self.ranks - 1 - self.rank), q.chunk(2, dim=-2), strict=True
        ):
            seen = (piece + 1) * queries.shape[-2]
            keys, values = whole[..., :seen, :]
            mask = causal_lower_right(queries.shape[-2], seen)  # the last query sees the last key
            parts.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask))
        return torch.cat(parts, dim=-2)
