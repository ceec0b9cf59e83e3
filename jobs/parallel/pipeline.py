"""A pipeline: each rank has some of the blocks, and the batch passes through in microbatches.

With 1F1B a rank computes one forward and one backward in turn, so that it holds the activations of at most as
many microbatches as there are stages behind it, and waits for (p - 1) / (m + p - 1) of the time, p ranks and m
microbatches (PipeDream-Flush, arXiv:2006.09503). Interleaved, each rank has two stages that do not follow each
other, and that wait is halved, for twice the messages (arXiv:2104.04473). The schedules are torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from jobs.config import Config
from jobs.model import of
from jobs.parallel import spread


class Pipeline:
    """A schedule over this rank's stages, which are made of the network's own blocks."""

    def __init__(self, network: nn.Module, config: Config, layout: spread.Layout) -> None:
        """The network keeps only what is in this rank's stages, under the names that it has in a whole one."""
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

        mesh, ranks = layout.mesh, layout.ranks
        self.model = of(config.model)
        layers = self.model.pieces(config.model)
        numbers = mesh.stages_of(ranks.rank)
        blocks = {stage: mesh.blocks(stage, layers) for stage in numbers}
        parts = self.model.stages(network, config.model, blocks, mesh.stages - 1)
        stages = [
            PipelineStage(
                spread.apply(part, self.model, layout, config),
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
        return self.model.loss(logits, targets) * (self.scale / self.microbatches)
