"""What the ranks of a run share: process groups and their devices."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from jobs.cli.errors import Failure, Mistake
from jobs.cluster import address

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the others, and where it computes."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    simulated: bool  # the scheduler gave GPUs that are not there
    background: Any  # a process group on CPU beside training's, for objects and for the checkpoint's thread

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over all ranks, in double precision; the same bits on every rank."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def told(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.background)
        return box[0]

    def decided(self, call: Callable[[], T]) -> T:
        """What `call` returns on rank 0, on every rank; its Mistake or Failure is every rank's."""
        found: Any = None
        if self.first:
            try:
                found = call()
            except (Mistake, Failure) as error:
                found = error
        found = self.told(found)
        if isinstance(found, Mistake | Failure):
            raise found
        return found

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.background)
        return box

    def wait(self) -> None:
        dist.barrier(group=self.background)


def start(peer_timeout_s: int) -> Ranks:
    """Meet the other ranks. NCCL where there are GPUs, else gloo.

    A peer that says nothing for `peer_timeout_s` makes every collective fail: without it, a lost node would
    hold the others for half an hour. A process that is not under torchrun is a world of one.
    """
    for name, alone in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, alone)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    local_rank = int(os.environ["LOCAL_RANK"])
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    address.show_gloo()
    timeout = timedelta(seconds=peer_timeout_s)
    if "MASTER_PORT" in os.environ:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timeout, device_id=device if gpu else None
        )
    else:  # alone: nobody to meet, so no port that could be taken
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=dist.HashStore(),
            rank=0,
            world_size=1,
            timeout=timeout,
        )
    return Ranks(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        local_rank=local_rank,
        local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        device=device,
        # Slurm names the devices; in Kubernetes the job says how many it asked for.
        simulated=not gpu
        and (bool(os.environ.get("CUDA_VISIBLE_DEVICES")) or os.environ.get("SLIPWAY_GPUS", "0") != "0"),
        background=dist.new_group(backend="gloo", timeout=timeout),
    )


def end() -> None:
    dist.destroy_process_group()
