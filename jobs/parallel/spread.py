"""How the plain model of jobs/model/gpt.py is spread over a mesh: everything parallel about it is in this file.

The order matters: tensor parallelism says what each rank's part of a matrix is, context parallelism what its
part of a sequence is, recomputation and compilation wrap a block as it then is, and data parallelism, which
gathers weights and averages gradients, comes around all of that. A pipeline (jobs/parallel/pipeline.py) does this to
each of its stages. What is not asked for is not imported: it would come before the first step.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jobs.config import Compute
from jobs.model import precision
from jobs.model.gpt import GPT
from jobs.parallel.mesh import Mesh
from jobs.parallel.ranks import Ranks, end, start

__all__ = ["Layout", "Ranks", "apply", "end", "spread", "start"]


def spread(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model with gradients averaged over all ranks while they are computed (DDP)."""
    return DistributedDataParallel(model.to(ranks.device), gradient_as_bucket_view=True)


class Layout:
    """The mesh as torch knows it: process groups along its dimensions. Made by all ranks at once.

    Ranks with other parts of a sequence average gradients as those with other samples do, and with FSDP they
    share the weights, too: so `context` is a part of `replicate` or `shard` in `devices`.
    """

    def __init__(self, mesh: Mesh, ranks: Ranks) -> None:
        self.mesh, self.ranks = mesh, ranks
        self.devices: Any = None  # DDP alone needs nothing but the world
        self.context: Any = None
        if mesh.plain:
            return
        from torch.distributed.device_mesh import init_device_mesh

        copies, weights = mesh.replicate, mesh.shard
        if mesh.form == "fsdp":
            weights *= mesh.context
        else:
            copies *= mesh.context
        self.devices = init_device_mesh(
            ranks.device.type,
            (mesh.pipeline, copies, weights, mesh.tensor),
            mesh_dim_names=("pipeline", "replicate", "shard", "tensor"),
        )
        if mesh.context > 1:
            self.context, _ = dist.new_subgroups_by_enumeration(mesh.groups("context"))


def apply(model: GPT, layout: Layout, compute: Compute) -> nn.Module:
    """The model, or a stage of it, on its mesh, in place; returns what to call: it or a wrapper around it."""
    mesh, devices, ranks = layout.mesh, layout.devices, layout.ranks
    precision.cast(model, compute.precision, ranks.device)
    if mesh.tensor > 1:
        _split_matrices(model, devices["tensor"])
    if mesh.context > 1:
        _split_sequences(model, layout.context)
    if compute.precision == "fp8":
        from jobs.model import float8

        float8.convert(model.blocks)
    for block in model.blocks.values():
        if compute.recompute:
            from torch.utils.checkpoint import checkpoint

            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compute.compile:
            block.compile()
    if mesh.plain:
        return spread(model, ranks)
    if mesh.form == "fsdp":
        _shard(model, mesh, devices, compute)
    elif mesh.data * mesh.context > 1:
        _replicate(model, devices)
    return model.to(ranks.device)


def _split_matrices(model: GPT, tensor: Any) -> None:
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
    if model.embedding is not None:
        parts["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if model.head is not None:
        parts["head"] = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
    parallelize_module(model, tensor, parts, src_data_rank=None)


def _split_sequences(model: GPT, among: Any) -> None:
    """Each rank of the group has some positions of each sequence, and their rotations."""
    from jobs.parallel import context

    attend = context.Attend(among)
    mine = context.positions(len(model.cos), attend.rank, attend.ranks)
    model.cos, model.sin = model.cos[mine], model.sin[mine]
    for block in model.blocks.values():
        block.attention.attend = attend


def _shard(model: GPT, mesh: Mesh, devices: Any, compute: Compute) -> None:
    """FSDP2: each block's weights are gathered before it runs, each rank keeps its part of the gradient.

    With replicas (HSDP) weights are gathered inside a shard group, gradients averaged between them as well.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    kind = precision.AUTOCAST.get(compute.precision)
    options = {
        "mesh": devices["replicate", "shard"] if mesh.replicate > 1 else devices["shard"],
        "mp_policy": MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32 if kind else None),
        # A microbatch would gather them again for each of its two passes.
        "reshard_after_forward": mesh.pipeline == 1,
        # The first dimension of q, k and v counts to three.
        "shard_placement_fn": lambda weight: Shard(2) if weight.ndim == 3 else None,
    }
    for block in model.blocks.values():
        fully_shard(block, **options)
    fully_shard(model, **options)


def _replicate(model: GPT, devices: Any) -> None:
    """DDP for a model whose weights are DTensors or whose backward comes in microbatches: FSDP2's machinery,

    which overlaps the averages with the backward pass, without the sharding.
    """
    from torch.distributed._composable.replicate_with_fsdp import replicate

    for block in model.blocks.values():
        replicate(block, mesh=devices["replicate"])
    replicate(model, mesh=devices["replicate"])
