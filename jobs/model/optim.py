"""AdamW and the schedule of its learning rate."""

import math

import torch
from torch import nn

from jobs.config import Train


def make(model: nn.Module, train: Train, fused: bool = True) -> torch.optim.Optimizer:
    """Matrices are decayed; the embedding, whose rows are rarely visited, is not."""
    decayed = [p for name, p in model.named_parameters() if "embedding" not in name]
    others = [p for name, p in model.named_parameters() if "embedding" in name]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # a stage of a pipeline may have no embedding
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, 0.95), eps=1e-10, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, train: Train, step: int) -> float:
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
