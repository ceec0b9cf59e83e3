"""Kubernetes' view of the pools: labels, taints and extended resources, one document for each pool.

The device plugin announces real accelerators; simulated ones are announced by patching the node's status with
`capacity`, which schedules and counts pods but gives them no device.
"""

from typing import Any

from infra.cluster import Cluster, Pool
from infra.render.text import origin, yaml

PREFIX = "slipway.dev"


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/nodes.yaml."""
    what = "labels, taints and extended resources of each pool's nodes"
    parts = [f"# {cluster.name}: {what}\n# {origin(cluster)}\n"]
    parts += [yaml(_pool(pool)) for pool in cluster.pools]
    return {"kubernetes/nodes.yaml": "---\n".join(parts)}


def _pool(pool: Pool) -> dict[str, Any]:
    gpus = pool.hardware.accelerators
    labels = {
        f"{PREFIX}/pool": pool.name,
        f"{PREFIX}/hardware": pool.hardware.name,
        f"{PREFIX}/simulated": "true" if pool.simulated else "false",
    }
    if pool.stack:
        labels[f"{PREFIX}/stack"] = pool.stack.folder
    if pool.zone:
        labels["topology.kubernetes.io/zone"] = pool.zone
    if gpus:
        labels[f"{PREFIX}/accelerator"] = gpus.gres
        labels[f"{PREFIX}/accelerator-count"] = str(gpus.count)
        if gpus.compute_capability:
            labels[f"{PREFIX}/compute-capability"] = gpus.compute_capability
    resource = gpus.kubernetes_resource if gpus else None
    return {
        "pool": pool.name,
        "nodes": pool.hosts,
        "count": pool.count,
        "labels": labels,
        # Pods that ask for no accelerator stay off the nodes that have some.
        "taints": [{"key": resource, "value": "present", "effect": "NoSchedule"}] if resource else [],
        "capacity": {resource: str(pool.gpus)} if resource else {},
    }
