"""What the ranks of a run share: process groups and their devices."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from jobs.cli.errors import Failure, Mistake
from jobs.cluster import address, node, slurm
from jobs.parallel import versions

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the others, and where it computes."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    simulated: bool  # it computes on the CPU, as its node's GPUs are simulated
    background: Any  # a process group on CPU beside training's, for objects and for the checkpoint's thread
    quick: timedelta = timedelta(seconds=60)  # until a collective of a step fails
    slow: timedelta = timedelta(minutes=30)  # and where ranks do different things for long

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over all ranks, in double precision; the same bits on every rank."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def patient(self) -> None:
        """From here on ranks wait for each other for long: data, the first step, validation."""
        versions.set_timeout(self.slow)

    def hurry(self) -> None:
        """From here on they are at the same step: who is late is lost."""
        versions.set_timeout(self.quick)

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


def start(peer_timeout_s: int, slow_s: int | None = None) -> Ranks:
    """Meet the other ranks. NCCL where there are GPUs, else gloo. Raises Mistake and Failure.

    A peer that says nothing for `peer_timeout_s` makes every collective fail: without it, a lost node would hold the
    others for half an hour. Where ranks do different things for long, it is `slow_s`: among all until `hurry`, and
    always for objects and in the thread that writes checkpoints. A process alone is a world of one.
    """
    slurm.refuse_tasks()
    for name, alone in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, alone)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpu = torch.cuda.is_available()
    simulated = node.simulates(node.read(), torch.cuda.device_count() if gpu else 0, local_size, _driver)
    device = torch.device("cuda", local_rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    address.show_gloo()
    quick, slow = timedelta(seconds=peer_timeout_s), timedelta(seconds=slow_s or peer_timeout_s)
    if "MASTER_PORT" in os.environ:
        # torchrun sees a rank that dies before all have met; without one, nobody but this time-out does.
        meet = slow if "TORCHELASTIC_RUN_ID" in os.environ else quick
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=meet, device_id=device if gpu else None
            )
        except (
            dist.DistNetworkError,
            dist.DistStoreError,
        ) as error:  # a port that is taken, a host that is gone
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            why = str(error).strip().splitlines()[0]
            raise Failure(
                f"{platform.node()}: rank {os.environ['RANK']} cannot meet the others at {where}: {why}"
            ) from error
    else:  # alone: nobody to meet, so no port that could be taken
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=dist.HashStore(),
            rank=0,
            world_size=1,
            timeout=slow,
        )
    ranks = Ranks(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        local_rank=local_rank,
        local_size=local_size,
        device=device,
        simulated=simulated,
        background=dist.new_group(backend="gloo", timeout=slow),
        quick=quick,
        slow=slow,
    )
    ranks.patient()
    return ranks


def _driver() -> str:
    """What keeps torch from using a GPU, and the driver's version where there is one."""
    try:
        torch.cuda.init()
        why = "torch sees none"
    except Exception as error:  # of several kinds: no driver, an older one, no device
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
    try:
        version = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        version = "no NVIDIA driver is loaded"
    return f"{why} ({version})"


def end() -> None:
    dist.destroy_process_group()
