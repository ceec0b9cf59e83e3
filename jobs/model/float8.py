"""Matrix products in 8 bits: e4m3 forward, e5m2 for gradients (arXiv:2209.05433), one scale for each tensor.

Each tensor is scaled so that its largest value is the format's largest, found anew each time; the products
are torch._scaled_mm, which cuBLAS computes on GPUs from compute capability 8.9 on. The sums are wider, and what
comes out is bf16. Only the blocks are converted: embedding and head stay as they are.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2


class Product(torch.autograd.Function):
    """x (..., inputs) times the transpose of weight (outputs, inputs); all sizes are multiples of 16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows, scale_x = quantise(x.flatten(0, -2), FORWARD)
        matrix, scale_w = quantise(weight, FORWARD)
        ctx.save_for_backward(rows, scale_x, matrix, scale_w)
        ctx.kinds = x.dtype, weight.dtype
        y = torch._scaled_mm(rows, matrix.t(), scale_x, scale_w, out_dtype=torch.bfloat16)
        return y.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows, scale_x, matrix, scale_w = ctx.saved_tensors
        shape = gradients[0].shape[:-1]
        g, scale_g = quantise(gradients[0].flatten(0, -2), BACKWARD)
        # The second factor has its columns one after the other in memory: what the hardware reads.
        x = torch._scaled_mm(g, matrix.t().contiguous().t(), scale_g, scale_w, out_dtype=torch.bfloat16)
        weight = torch._scaled_mm(
            g.t().contiguous(), rows.t().contiguous().t(), scale_g, scale_x, out_dtype=torch.bfloat16
        )
        return x.unflatten(0, shape).to(ctx.kinds[0]), weight.to(ctx.kinds[1])


def quantise(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in 8 bits, and what to multiply that with to have it back."""
    scale = x.abs().max().float().clamp(min=1e-12) / torch.finfo(kind).max
    return (x / scale).to(kind).contiguous(), scale


def convert(blocks: Iterable[nn.Module]) -> None:
    """Every linear product in these modules is computed in 8 bits from now on."""
    for module in (module for block in blocks for module in block.modules()):
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            module.forward = partial(_forward, module)


def _forward(module: Any, x: Tensor) -> Tensor:
    y: Tensor = Product.apply(x, module.weight.flatten(0, -2))
    return y
