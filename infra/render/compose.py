"""The lab's Docker Compose file."""

import hashlib
from pathlib import Path
from typing import Any

from infra.model.cluster import Cluster, Pool
from infra.render import nodes
from infra.render.text import fill, scalar

# systemd, slurmd and the node exporter of one container; measured 70 MiB, with room for shells.
NODE_OVERHEAD_MIB = 256


def render(cluster: Cluster) -> dict[str, str]:
    """compose.yaml of a cluster of place `lab`.

    Every compute node gets cores of its own while there are enough, in the order of the nodes; beyond that
    nodes share them.
    """
    host = cluster.host
    assert host, "only a lab has a compose file"
    mounted = nodes.render(cluster)
    pools: list[dict[str, Any]] = []
    first = 0
    for pool in cluster.pools:
        hosts = []
        for name in pool.nodes:
            cores = sorted((first + i) % host.cores for i in range(pool.cpus))
            hosts.append({"name": name, "cpuset": ",".join(str(core) for core in cores)})
            first += pool.cpus
        assert pool.stack, "a lab runs jobs, so every pool has a stack"
        pools.append(
            {
                "name": pool.name,
                "nodes": hosts,
                "memory_mib": pool.memory_mib + NODE_OVERHEAD_MIB,
                "stack": pool.stack.folder,
                "digest": _digest(pool, mounted),
            }
        )
    stacks = sorted({pool["stack"] for pool in pools})
    text = fill(
        "compose.yaml",
        cluster,
        host=host,
        pools=pools,
        stacks=stacks,
        checkout=in_compose(host.checkout),
        in_unit=in_unit(host.checkout),
        stacks_folder={stack: in_compose(host.cache / "stacks" / stack) for stack in stacks},
        user=cluster.users[0],
    )
    return {"compose.yaml": text}


def in_compose(path: Path) -> str:
    """A path as a value of compose.yaml, which puts the shell's variables where a $ is."""
    return scalar(str(path), flow=True).replace("$", "$$")


def in_unit(path: Path) -> str:
    """A path between the quotes of a systemd unit's command, where % and $ mean something, inside of compose.yaml."""
    text = str(path)
    for sign, literal in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(sign, literal)
    return text.replace("$", "$$")


def _digest(pool: Pool, mounted: dict[str, str]) -> str:
    """Changes with what the containers of `pool` mount and read only when they start."""
    content = (
        mounted[f"nodes/{pool.name}.json"] + mounted[f"nodes/{pool.name}.tmpfiles"] + mounted["sysusers.conf"]
    )
    return hashlib.sha256(content.encode()).hexdigest()[:12]
