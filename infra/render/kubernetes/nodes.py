"""Kubernetes' view of the pools: labels, taints and extended resources, one document for each pool.

The device plugin announces real accelerators; simulated ones are announced by patching the node's status with
`capacity`, which schedules and counts pods but gives them no device.
"""

from typing import Any

from infra.model.cluster import Cluster, Pool
from infra.render.text import origin, yaml

PREFIX = "slipway.dev"


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/nodes.yaml for people and tools; capacity.yaml, which the cluster announces what is simulated by."""
    what = "labels, taints and extended resources of each pool's nodes"
    parts = [f"# {cluster.name}: {what}\n# {origin(cluster)}\n"]
    parts += [yaml(_pool(pool)) for pool in cluster.pools]
    return {
        "kubernetes/nodes.yaml": "---\n".join(parts),
        "kubernetes/capacity.yaml": _capacity(cluster),
    }


def resource(pool: Pool) -> str | None:
    """The extended resource by which pods ask for the pool's accelerators: nvidia.com/gpu."""
    gpus = pool.hardware.accelerators
    return gpus.kubernetes_resource if gpus else None


def taints(pool: Pool) -> list[dict[str, str]]:
    """Pods that ask for no accelerator stay off the nodes that have some."""
    name = resource(pool)
    return [{"key": name, "value": "present", "effect": "NoSchedule"}] if name else []


def labels(pool: Pool) -> dict[str, str]:
    """Facts of the profile and the cluster file that pods can select nodes by."""
    gpus = pool.hardware.accelerators
    found = {
        f"{PREFIX}/pool": pool.name,
        f"{PREFIX}/hardware": pool.hardware.name,
        f"{PREFIX}/simulated": "true" if pool.simulated else "false",
    }
    if pool.stack:
        found[f"{PREFIX}/stack"] = pool.stack.folder
    if pool.mig:
        found["nvidia.com/mig.config"] = f"all-{pool.mig}"  # read by the GPU operator's MIG manager
    if pool.zone:
        found["topology.kubernetes.io/zone"] = pool.zone
    if gpus:
        found[f"{PREFIX}/accelerator"] = gpus.gres
        found[f"{PREFIX}/accelerator-count"] = str(gpus.count)
        if gpus.compute_capability:
            found[f"{PREFIX}/compute-capability"] = gpus.compute_capability
    return found


def _pool(pool: Pool) -> dict[str, Any]:
    name = resource(pool)
    return {
        "pool": pool.name,
        "nodes": pool.hosts,
        "count": pool.count,
        "labels": labels(pool),
        "taints": taints(pool),
        "capacity": {name: str(pool.devices)} if name else {},
    }


def _capacity(cluster: Cluster) -> str:
    """Which accelerators a node of each pool pretends to have; read by k8s/overlays/lab/pod-network."""
    simulated = [pool for pool in cluster.pools if pool.simulated and resource(pool)]
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "simulated-capacity", "namespace": "slipway-system"},
        "data": {pool.name: f"{resource(pool)}={pool.gpus}" for pool in simulated},
    }
    return f"# {origin(cluster)}\n{yaml(config_map)}"
