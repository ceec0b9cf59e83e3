"""A pipeline: each rank has some of the blocks, and the batch passes through in microbatches.

With 1F1B a rank computes one forward and one backward in turn, so that it holds the activations of at most as
many microbatches as there are stages behind it, and waits for (p - 1) / (m + p - 1) of the time, p ranks and m
microbatches (PipeDream-Flush, arXiv:2006.09503). Interleaved, each rank has two stages that do not follow each
other, and that wait is halved, for twice the messages (arXiv:2104.04473). The schedules are torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from jobs.config import Compute, Model
from jobs.model import gpt
from jobs.model.gpt import GPT
from jobs.parallel import spread


def split(model: GPT, shape: Model, layout: spread.Layout) -> list[GPT]:
    """This rank's stages, made of the model's own blocks; the model keeps only what is in them.

    So the model's parameters are this rank's, under the names that they have in a model that is not split.
    """
    mesh, parts = layout.mesh, []
    for stage in mesh.stages_of(layout.ranks.rank):
        with torch.device("meta"):
            part = GPT(shape)  # a shell
        part.embedding = model.embedding if stage == 0 else None
        part.head = model.head if stage == mesh.stages - 1 else None
        part.blocks = nn.ModuleDict(
            {str(at): model.blocks[str(at)] for at in mesh.blocks(stage, shape.layers)}
        )
        part.cos, part.sin = model.cos, model.sin
        parts.append(part)
    model.embedding, model.head = parts[0].embedding, parts[-1].head
    model.blocks = nn.ModuleDict({name: block for part in parts for name, block in part.blocks.items()})
    return parts


class Pipeline:
    """A schedule over this rank's stages."""

    def __init__(self, parts: list[GPT], layout: spread.Layout, compute: Compute) -> None:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

        mesh, ranks = layout.mesh, layout.ranks
        numbers = mesh.stages_of(ranks.rank)
        stages = [
            PipelineStage(
                spread.apply(part, layout, compute),
                number,
                mesh.stages,
                ranks.device,
                group=layout.devices["pipeline"].get_group(),
            )
            for number, part in zip(numbers, parts, strict=True)
        ]
        self.first, self.last = numbers[0] == 0, numbers[-1] == mesh.stages - 1
        self.microbatches, self.scale = mesh.microbatches, 1.0
        # The loss is divided here and not the gradients afterwards, which are averaged by then.
        common = {"loss_fn": self._loss, "scale_grads": False}
        self._schedule: Any = (
            ScheduleInterleaved1F1B(stages, mesh.microbatches, **common)
            if mesh.interleaved
            else Schedule1F1B(stages[0], mesh.microbatches, **common)
        )

    def run(self, inputs: Tensor, targets: Tensor, scale: float, backward: bool) -> Tensor:
        """Mean loss of the batch on ranks with the last stage, 0 on others; its gradient times `scale`."""
        self.scale = scale
        found: list[Tensor] = []
        last = {"target": targets, "losses": found} if self.last else {}
        way = self._schedule.step if backward else self._schedule.eval
        way(*((inputs,) if self.first else ()), **last)
        if not found:
            return torch.zeros((), device=inputs.device)
        return torch.stack(found).sum().detach() / scale

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return gpt.loss(logits, targets) * (self.scale / self.microbatches)
