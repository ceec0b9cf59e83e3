"""What a job in a pod may know of the machine it is on, which reads no profile: power, price, peak.

On Slurm's nodes that is /etc/slipway/node.json. A pod sees nothing of its node, so every team has a ConfigMap with a
file for each kind of machine: `<hardware>.json`, and `gpu.json` and `cpu.json` for jobs that do not name their
hardware. What pools would make a file say in two ways is left out, and what a job does not find it does not guess.
"""

import json
from typing import Any

from infra.model.cluster import Cluster, Pool
from infra.render.nodes import facts

NAME = "slipway-nodes"  # in infra/render/templates/pod.yaml.j2
KEYS = ("hardware", "cpus", "simulated", "cost")


def files(cluster: Cluster) -> dict[str, str]:
    """The ConfigMap's files by name, as JSON."""
    groups: dict[str, list[Pool]] = {}
    with_gpus = [pool for pool in cluster.pools if pool.gpus]
    groups["gpu"] = with_gpus
    groups["cpu"] = [pool for pool in cluster.pools if not pool.gpus] or with_gpus
    for pool in cluster.pools:
        groups.setdefault(pool.hardware.name, []).append(pool)
    found: dict[str, str] = {}
    for name, pools in groups.items():
        said = {_said(cluster, pool) for pool in pools}
        if len(said) == 1:
            found[f"{name}.json"] = said.pop()
        elif all(
            pool.simulated for pool in pools
        ):  # that much is true of all: without it a job has lost its GPUs
            found[f"{name}.json"] = json.dumps({"simulated": True}, indent=1) + "\n"
    return found


def _said(cluster: Cluster, pool: Pool) -> str:
    known: dict[str, Any] = facts(cluster, pool)
    gpus = {key: known["gpus"][key] for key in ("count", "peak_tflops")}
    return json.dumps({**{key: known[key] for key in KEYS}, "gpus": gpus}, indent=1) + "\n"
