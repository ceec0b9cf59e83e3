"""In which precision products are computed. Weights, gradients' sums and the optimiser's moments stay fp32.

fp32   as exact as the hardware; the default, and what bit-identical runs are compared in
tf32   fp32 with 10 bits of mantissa inside products: no other change, NVIDIA GPUs from 8.0 (A100) on
bf16   autocast: fp32's range with 7 bits; half the bytes, no scaling; GPUs from 8.0 on, any CPU (slowly)
fp16   autocast: 10 bits but a range from 6e-8 to 65504, so the loss is scaled (`Scaler`); older GPUs
fp8    bf16, and the products of the blocks in 8 bits (jobs/model/float8.py); GPUs from 8.9 (L4, H100) on
"""

import os
import shutil
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jobs.cli.errors import Mistake

if TYPE_CHECKING:
    from jobs.config import Compute

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
NEEDS = {"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9)}  # the least compute capability of a GPU
ON_CPU = ("fp32", "bf16", "fp16")


def check(compute: "Compute", device: torch.device) -> None:
    """Raises Mistake when the device cannot compute like this."""
    precision = compute.precision
    if compute.compile and device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise Mistake("compute.compile: on a CPU it needs a C++ compiler, and there is no g++; leave it out")
    if device.type != "cuda":
        if precision not in ON_CPU:
            raise Mistake(f"compute.precision: {precision} needs a GPU; on a CPU use {', '.join(ON_CPU)}")
        return
    has, needs = torch.cuda.get_device_capability(device), NEEDS.get(precision, (0, 0))
    if has < needs:
        raise Mistake(
            f"compute.precision: {precision} needs compute capability {needs[0]}.{needs[1]}; "
            f"{torch.cuda.get_device_name(device)} has {has[0]}.{has[1]}; use fp16 or fp32"
        )


def use(precision: str) -> None:
    """Set what holds for the whole process: whether fp32 products may be rounded to tf32 inside."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def cast(model: nn.Module, precision: str, device: torch.device) -> None:
    """From now on the model's forward computes its products in the precision; the loss is not a part of it."""
    if precision in AUTOCAST:
        model.forward = torch.autocast(device.type, AUTOCAST[precision])(model.forward)


class Scaler:
    """Scale of the loss for fp16: small gradients would be zero, large ones infinite.

    Doubled after `patience` good steps, halved after one whose gradient is not finite, which is then left
    out. torch.amp.GradScaler does the same on one rank; this one goes by the global norm of the gradient,
    which every rank of every mesh has with the same bits, so that all leave out the same steps.
    """

    def __init__(self, enabled: bool, scale: float = 2.0**16, patience: int = 2000) -> None:
        self.enabled, self.patience = enabled, patience
        self.scale = scale if enabled else 1.0
        self.good = 0  # steps since the last change of the scale

    def unscale(self, gradients: list[Tensor]) -> None:
        if self.enabled:
            torch._foreach_mul_(gradients, 1 / self.scale)

    def good_step(self, norm: Tensor) -> bool:
        """Whether the step may be taken, whose gradient has this norm. Adapts the scale."""
        if not self.enabled:
            return True
        if not torch.isfinite(norm):
            self.scale, self.good = self.scale / 2, 0
            return False
        self.good += 1
        if self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0
        return True
