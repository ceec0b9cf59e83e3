"""What the machine that a job runs on draws, costs and could compute, as its hardware profile says it.

A job may not read the profiles: it runs where there is no checkout of them. So what is rendered for each node,
/etc/slipway/node.json, holds these few figures. SLIPWAY_NODE names another file of that form, in a pod one of its
team's ConfigMap; where there is none, nothing is known, and what depends on it is null and never guessed.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cli.errors import Failure

FILE = Path("/etc/slipway/node.json")


@dataclass(frozen=True)
class Node:
    """One machine. Figures that nobody stated are None."""

    hardware: str | None = None  # the profile that power and price are from
    maximum_w: float | None = None
    usd_per_hour: float | None = None
    cpus: int | None = None
    gpus: int = 0  # real ones
    simulated: bool | None = None  # whether device files stand in for GPUs; None where nobody says
    peak_tflops: Mapping[str, float] = field(default_factory=dict)  # of one accelerator, by precision, dense

    def share(self, cpus: int, gpus: int) -> float:
        """The part of the machine that a job with so many of its CPUs and accelerators has: the greater part."""
        parts = [cpus / self.cpus] if self.cpus else []
        parts += [gpus / self.gpus] if self.gpus else []
        return min(1.0, max(parts, default=1.0))

    def watts(self, share: float) -> float | None:
        """The most that this part of the machine draws."""
        return None if self.maximum_w is None else self.maximum_w * share


def read(file: Path | None = None) -> Node:
    """The node that this process runs on; one that nothing is known of where there is no such file.

    Raises Failure when the file is there and cannot be read.
    """
    file = file or Path(os.environ.get("SLIPWAY_NODE") or FILE)
    try:
        return _node(json.loads(file.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return Node()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise Failure(f"{platform.node()}: {file}: what this node is cannot be read: {error}") from error


def _node(facts: dict[str, Any]) -> Node:
    cost, gpus = facts.get("cost") or {}, facts.get("gpus") or {}
    return Node(
        hardware=cost.get("hardware"),
        maximum_w=cost.get("maximum_w"),
        usd_per_hour=cost.get("usd_per_hour"),
        cpus=facts.get("cpus"),
        simulated=facts.get("simulated"),
        gpus=0 if facts.get("simulated") else int(gpus.get("count") or 0),
        peak_tflops=gpus.get("peak_tflops") or {},
    )


def given() -> str:
    """What says that this process was given GPUs, empty when nothing does.

    Slurm names the devices; in Kubernetes the job says how many it asked for.
    """
    devices, count = os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ.get("SLIPWAY_GPUS", "0")
    if devices not in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES={devices}"
    return f"SLIPWAY_GPUS={count}" if count not in ("", "0") else ""


def simulates(here: Node, seen: int, needed: int, driver: Callable[[], str]) -> bool:
    """Whether this process computes on the CPU because its GPUs are simulated. Without any that is no question.

    seen: GPUs that torch can use; needed: ranks on this node, each of which takes one; driver: what it says. Raises
    Failure when GPUs that were given do not work: a job must not train on the CPU at the price of GPUs that are broken.
    """
    said = given()
    if seen:
        if seen < needed:
            raise Failure(
                f"{platform.node()}: {seen} GPUs can be used, and {needed} ranks here need one each ({said})"
            )
        return False
    if not said or here.simulated:
        return bool(said)
    known = "its GPUs are real" if here.simulated is False else f"{FILE} does not say that they are simulated"
    raise Failure(
        f"{platform.node()}: {said}, but no GPU can be used: {driver()}; {known}. "
        "Without that variable it computes on the CPU"
    )


def cpus_here() -> int:
    """CPUs of this machine that the job has: Slurm's count or the pod's, else what this process may use."""
    said = os.environ.get("SLURM_CPUS_ON_NODE") or os.environ.get("SLIPWAY_CPUS")
    return int(said or len(os.sched_getaffinity(0)))
