"""How the GPT is cut: its matrices by heads and columns, its sequences by positions, its blocks into stages."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jobs.model.gpt import Shape
from jobs.model.gpt.network import GPT


def matrices(network: GPT, tensor: Any) -> None:
    """Each block has two products of columns and two of rows, between which nothing is sent (Megatron-LM,

    arXiv:1909.08053); around them each rank has a part of the sequence (arXiv:2205.05198), so that the
    residual stream is not stored by all: all-gather before the columns, reduce-scatter after the rows.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        ParallelStyle,
        RowwiseParallel,
        parallelize_module,
    )

    class Heads(ParallelStyle):
        """Projections whose (3, width, width) are split by heads: each rank computes some heads' q, k and v."""

        def _apply(self, module: nn.Module, mesh: Any) -> nn.Module:
            def whole(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
                part = DTensor.from_local(inputs[0], mesh, (Shard(1),))
                # Each rank's gradient is of its own heads only, and the way back adds them up.
                return part.redistribute(placements=(Replicate(),)).to_local(grad_placements=(Partial(),))

            weight = distribute_tensor(module.weight, mesh, (Shard(1),), src_data_rank=None)
            module.weight = nn.Parameter(weight)
            module.register_forward_pre_hook(whole)
            return module

    parts: dict[str, Any] = {
        "blocks.*.attention.qkv": Heads(),
        "blocks.*.attention.out": RowwiseParallel(output_layouts=Shard(1)),
        "blocks.*.up": ColwiseParallel(input_layouts=Shard(1)),
        "blocks.*.down": RowwiseParallel(output_layouts=Shard(1)),
    }
    if network.embedding is not None:
        parts["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if network.head is not None:
        parts["head"] = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    parallelize_module(network, tensor, parts, src_data_rank=None)


def sequences(network: GPT, positions: Tensor, attend: Any) -> None:
    """This rank's rotations, and its attention to what the others have."""
    network.cos, network.sin = network.cos[positions], network.sin[positions]
    for block in network.blocks.values():
        block.attention.attend = attend


def stages(network: GPT, shape: Shape, stages: Mapping[int, range], last: int) -> list[GPT]:
    """The network's own blocks, so that its parameters have the names of one that is not cut."""
    parts = []
    for stage, blocks in stages.items():
        with torch.device("meta"):
            part = GPT(shape)  # a shell
        part.embedding = network.embedding if stage == 0 else None
        part.head = network.head if stage == last else None
        part.blocks = nn.ModuleDict({str(at): network.blocks[str(at)] for at in blocks})
        part.cos, part.sin = network.cos, network.sin
        parts.append(part)
    network.embedding, network.head = parts[0].embedding, parts[-1].head
    network.blocks = nn.ModuleDict({name: block for part in parts for name, block in part.blocks.items()})
    return parts
