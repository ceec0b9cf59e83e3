"""What the machine that a job runs on draws, costs and could compute, as its hardware profile says it.

A job may not read the profiles: it runs where there is no checkout of them. So what is rendered for each node,
/etc/slipway/node.json, holds these few figures. SLIPWAY_NODE names another file of that form, in a pod one of its
team's ConfigMap; where there is none, nothing is known, and what depends on it is null and never guessed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path("/etc/slipway/node.json")


@dataclass(frozen=True)
class Node:
    """One machine. Figures that nobody stated are None."""

    hardware: str | None = None  # the profile that power and price are from
    maximum_w: float | None = None
    usd_per_hour: float | None = None
    cpus: int | None = None
    gpus: int = 0  # real ones
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
    """The node that this process runs on; one that nothing is known of where there is no such file."""
    file = file or Path(os.environ.get("SLIPWAY_NODE") or FILE)
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return Node()
    cost, gpus = facts.get("cost") or {}, facts.get("gpus") or {}
    return Node(
        hardware=cost.get("hardware"),
        maximum_w=cost.get("maximum_w"),
        usd_per_hour=cost.get("usd_per_hour"),
        cpus=facts.get("cpus"),
        gpus=0 if facts.get("simulated") else int(gpus.get("count") or 0),
        peak_tflops=gpus.get("peak_tflops") or {},
    )


def cpus_here() -> int:
    """CPUs of this machine that the job has: Slurm's count or the pod's, else what this process may use."""
    said = os.environ.get("SLURM_CPUS_ON_NODE") or os.environ.get("SLIPWAY_CPUS")
    return int(said or len(os.sched_getaffinity(0)))
