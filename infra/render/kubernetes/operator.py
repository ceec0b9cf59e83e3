"""What NVIDIA's GPU operator must be given on nodes with real GPUs: values for its Helm chart, from the profiles.

The operator brings driver, container toolkit, device plugin and DCGM to nodes; k8s/overlays/gpu expects it.
"""

from typing import Any

from infra.base.version import number
from infra.model.cluster import Cluster, Pool
from infra.render.text import origin, yaml

CHART = "https://helm.ngc.nvidia.com/nvidia, chart gpu-operator"


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/gpu-operator-values.yaml where a pool has NVIDIA GPUs that are there."""
    pools = [
        pool
        for pool in cluster.pools
        if pool.hardware.accelerators
        and pool.hardware.accelerators.vendor == "nvidia"
        and pool.hardware.accelerators.kind == "gpu"
        and not pool.simulated
    ]
    if not pools:
        return {}
    text = f"# Values for NVIDIA's GPU operator ({CHART}).\n# {origin(cluster)}\n"
    return {"kubernetes/gpu-operator-values.yaml": text + yaml(_values(pools))}


def _values(pools: list[Pool]) -> dict[str, Any]:
    gpus = [pool.hardware.accelerators for pool in pools if pool.hardware.accelerators]
    # One operator serves all pools: the newest driver among them runs the older GPUs of the same branch too.
    driver = max((each.driver or "0" for each in gpus), key=number)
    return {
        "driver": {
            "enabled": True,
            "version": driver,
            # the open kernel modules know Turing (compute capability 7.5) and newer
            "kernelModuleType": "open"
            if all(float(each.compute_capability or 0) >= 7.5 for each in gpus)
            else "proprietary",
            "rdma": {"enabled": any(_fabric(pool) for pool in pools)},
        },
        "toolkit": {"enabled": True},
        "devicePlugin": {"enabled": True},  # announces nvidia.com/gpu
        # its manager cuts the GPUs of nodes that are labelled with a layout: those of pools that ask for one
        "mig": {"strategy": "single" if any(pool.mig for pool in pools) else "none"},
        "migManager": {"enabled": any(pool.mig for pool in pools)},
        "dcgm": {"enabled": True},
        "dcgmExporter": {
            "enabled": True,
            "serviceMonitor": {"enabled": False},
        },  # ours is scraped by annotation
        "daemonsets": {
            # the taints of our nodes
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        },
    }


def _fabric(pool: Pool) -> bool:
    return any(net.use == "fabric" and net.kind in ("infiniband", "roce") for net in pool.hardware.network)
