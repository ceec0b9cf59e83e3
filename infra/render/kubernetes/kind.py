"""kind's configuration: the lab's control plane and workers, each with its share of this machine."""

from dataclasses import dataclass

from infra.model.cluster import Cluster, Pool
from infra.render.kubernetes.nodes import PREFIX, labels, taints
from infra.render.text import fill


@dataclass(frozen=True)
class Worker:
    """One worker: kind names it by its place in the list, so the cluster file's name is a label."""

    node: str
    pool: Pool
    labels: dict[str, str]
    taints: list[dict[str, str]]
    reserved_cpus: int
    reserved_mib: int


def render(cluster: Cluster) -> dict[str, str]:
    """kind.yaml of a cluster of place `lab`."""
    host = cluster.host
    assert host, "only a lab has a kind cluster"
    workers = [
        Worker(
            node=node,
            pool=pool,
            labels={f"{PREFIX}/node": node, **labels(pool)},
            taints=taints(pool),
            # A container sees the whole machine. What is not the pool's is reserved, so that a worker's allocatable
            # is what the cluster file gives it, and two workers, or Slurm's nodes beside them, have their shares.
            reserved_cpus=max(0, host.cores - pool.cpus),
            reserved_mib=max(0, host.memory_mib - pool.memory_mib),
        )
        for pool in cluster.pools
        for node in pool.nodes
    ]
    stacks = sorted({pool.stack.folder for pool in cluster.pools if pool.stack})
    return {"kind.yaml": fill("kind.yaml", cluster, host=host, workers=workers, stacks=stacks)}
