"""How a plain model is spread over a mesh. What is cut inside of it, the model itself says (jobs/model/contract.py).

The order matters: tensor parallelism says what each rank's part of a matrix is, context parallelism what its
part of a sequence is, recomputation and compilation wrap a block as it then is, and data parallelism, which
gathers weights and averages gradients, comes around all of that. A pipeline (jobs/parallel/pipeline.py) does this to
each of its stages. What is not asked for is not imported: it would come before the first step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jobs.config import Compute, Config
from jobs.model import precision
from jobs.model.contract import Contract
from jobs.parallel import versions
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
        versions.allow(mesh)
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


def apply(network: nn.Module, model: Contract, layout: Layout, config: Config) -> nn.Module:
    """The network, or a stage of it, on its mesh, in place; returns what to call: it or a wrapper around it."""
    mesh, devices, ranks, compute = layout.mesh, layout.devices, layout.ranks, config.compute
    precision.cast(network, compute.precision, ranks.device)
    if mesh.tensor > 1:
        model.cut_matrices(network, devices["tensor"])
    if mesh.context > 1:
        from jobs.parallel import context

        attend = context.Attend(layout.context)
        positions = context.positions(config.model.context, attend.rank, attend.ranks)
        model.cut_sequences(network, positions, attend)
    blocks = model.blocks(network)
    if compute.precision == "fp8":
        from jobs.model import float8

        float8.convert(blocks)
    for block in blocks if compute.recompute else ():
        from torch.utils.checkpoint import checkpoint

        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    for block in (blocks or [network]) if compute.compile else ():
        block.compile()
    if mesh.plain:
        return spread(network, ranks)
    if mesh.form == "fsdp":
        _shard(network, blocks, model.shard_along, mesh, devices, compute)
    elif mesh.data * mesh.context > 1:
        _replicate(network, blocks, devices)
    return network.to(ranks.device)


def _shard(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    along: Callable[[Any], int],
    mesh: Mesh,
    devices: Any,
    compute: Compute,
) -> None:
    """FSDP2: each block's weights are gathered before it runs, each rank keeps its part of the gradient.

    With replicas (HSDP) weights are gathered inside a shard group, gradients averaged between them as well.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    versions.averages_on_cpu()
    kind = precision.AUTOCAST.get(compute.precision)
    options = {
        "mesh": devices["replicate", "shard"] if mesh.replicate > 1 else devices["shard"],
        "mp_policy": MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32 if kind else None),
        # A microbatch would gather them again for each of its two passes.
        "reshard_after_forward": mesh.pipeline == 1,
        "shard_placement_fn": lambda weight: Shard(along(weight)),
    }
    for block in blocks:
        fully_shard(block, **options)
    fully_shard(network, **options)


def _replicate(network: nn.Module, blocks: Sequence[nn.Module], devices: Any) -> None:
    """DDP for a model whose weights are DTensors or whose backward comes in microbatches: FSDP2's machinery,

    which overlaps the averages with the backward pass, without the sharding.
    """
    from torch.distributed._composable.replicate_with_fsdp import replicate

    for block in blocks:
        replicate(block, mesh=devices["replicate"])
    replicate(network, mesh=devices["replicate"])
