"""The fabric as Slurm sees it: a tree of switches, or blocks of nodes that share an NVLink domain."""

from itertools import islice

from infra.model import hostlist
from infra.model.cluster import Cluster, Pool
from infra.render.text import columns


def render(cluster: Cluster) -> tuple[str, str, list[str]]:
    """The plugin's name, one phrase about the fabric, and the lines of topology.conf."""
    chosen = cluster.spec.fabric.topology or _facts_say(cluster)
    if chosen == "block":
        return "block", "one block for each NVLink domain", _blocks(cluster)
    if chosen == "tree":
        return "tree", "leaf switches, joined by their spines", _tree(cluster)
    return "default", "flat", []


def _facts_say(cluster: Cluster) -> str:
    """Slurm 24.11 has one topology per cluster: blocks only fit when every node is in one.

    One leaf switch is no tree, and topology/tree has a price: programs of libslurm do not start with it
    (undefined symbol topo_conf).
    """
    if all(_domain(pool) for pool in cluster.pools):
        return "block"
    leaves = [size for pool in cluster.pools for size in _sizes(cluster, pool)]
    return "tree" if len(leaves) > 1 and any(_leaf(cluster, pool) for pool in cluster.pools) else "flat"


def _domain(pool: Pool) -> int | None:
    return pool.hardware.fabric.nodes_per_nvlink_domain if pool.hardware.fabric else None


def _leaf(cluster: Cluster, pool: Pool) -> int | None:
    """Nodes of this pool on one leaf switch. An NVLink domain is the innermost switch in a tree."""
    site, fabric = cluster.spec.fabric.nodes_per_leaf, pool.hardware.fabric
    if site or not fabric:
        return site
    return fabric.nodes_per_leaf or fabric.nodes_per_nvlink_domain


def _sizes(cluster: Cluster, pool: Pool) -> list[int]:
    """Nodes on each leaf switch of this pool."""
    return [len(nodes) for nodes in _chunks(pool.nodes, _leaf(cluster, pool) or pool.count)]


def _chunks(nodes: tuple[str, ...], size: int) -> list[list[str]]:
    rest = iter(nodes)
    return list(iter(lambda: list(islice(rest, size)), []))


def _blocks(cluster: Cluster) -> list[str]:
    """Slurm refuses a block that is smaller than the base size, so the smallest one sets it."""
    rows, sizes = [], []
    for pool in cluster.pools:
        for number, nodes in enumerate(_chunks(pool.nodes, _domain(pool) or pool.count), 1):
            rows.append([f"BlockName={pool.name}-{number}", f"Nodes={hostlist.compress(nodes)}"])
            sizes.append(len(nodes))
    return [*columns(rows), f"BlockSizes={min(sizes)}"]


def _tree(cluster: Cluster) -> list[str]:
    """Leaves of each pool, then spines, then one core when there is more than one spine."""
    leaves = []
    rows = []
    for pool in cluster.pools:
        size = _leaf(cluster, pool) or pool.count
        for number, nodes in enumerate(_chunks(pool.nodes, size), 1):
            leaves.append(f"leaf-{pool.name}-{number}")
            rows.append([f"SwitchName={leaves[-1]}", f"Nodes={hostlist.compress(nodes)}"])
    tops = leaves
    if len(leaves) > 1:
        per_spine = cluster.spec.fabric.leaves_per_spine or len(leaves)
        groups = _chunks(tuple(leaves), per_spine)
        tops = [f"spine-{number}" for number in range(1, len(groups) + 1)]
        rows += [
            [f"SwitchName={name}", f"Switches={hostlist.compress(group)}"]
            for name, group in zip(tops, groups, strict=True)
        ]
    if len(tops) > 1:
        rows.append(["SwitchName=core", f"Switches={hostlist.compress(tops)}"])
    return columns(rows)
