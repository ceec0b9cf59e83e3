"""AdamW and the schedule of its learning rate."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jobs.config import Train


def make(
    network: nn.Module, train: "Train", decays: Callable[[str, Tensor], bool], fused: bool = True
) -> torch.optim.Optimizer:
    """decays: whether a weight of that name is decayed, as the model says (jobs/model/contract.py)."""
    decayed = [weight for name, weight in network.named_parameters() if decays(name, weight)]
    others = [weight for name, weight in network.named_parameters() if not decays(name, weight)]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # a stage of a pipeline may have no embedding
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, 0.95), eps=1e-10, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, train: "Train", step: int) -> float:
    """Set and return the rate of a step, from 0: linear warm-up, then a cosine down to a tenth of it."""
    warmup = min(train.warmup, train.steps)
    if step < warmup:
        share = (step + 1) / warmup
    else:
        progress = (step - warmup) / max(1, train.steps - warmup)
        share = 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = train.learning_rate * share
    return train.learning_rate * share
