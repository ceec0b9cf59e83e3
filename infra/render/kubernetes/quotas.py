"""Who may use how much: the accounts' fair shares and limits as quotas of Kueue, in whole units.

CPU is counted in thousandths of a core, memory in MiB, accelerators one by one.
"""

from dataclasses import dataclass

from infra.model.cluster import AccountFile, Cluster, Pool
from infra.render.kubernetes.nodes import resource

CPU, MEMORY = "cpu", "memory"


@dataclass(frozen=True)
class Quota:
    """What a queue has of one resource of a pool."""

    nominal: int  # its own share, which others borrow only while it is idle
    most: int  # with everything that it may borrow
    capped: bool  # whether the account has a limit, or may borrow all there is


Quotas = dict[str, dict[str, dict[str, Quota]]]  # account, pool, resource


def resources(cluster: Cluster) -> list[str]:
    """What is counted: CPU, memory and every kind of accelerator."""
    found = [name for pool in cluster.pools if (name := resource(pool))]
    return [CPU, MEMORY, *dict.fromkeys(found)]


def capacity(pool: Pool, count: int | None = None) -> dict[str, int]:
    """What `count` nodes of a pool have; all of them when it is None."""
    nodes = pool.count if count is None else count
    found = {CPU: pool.cpus * 1000 * nodes, MEMORY: pool.memory_mib * nodes}
    name = resource(pool)
    return found | ({name: pool.devices * nodes} if name else {})


def quotas(cluster: Cluster) -> Quotas:
    """The quota of every account in every pool; of one resource they add up to no more than the pool has."""
    found: Quotas = {name: {} for name in cluster.accounts}
    limits = {name: _limits(cluster, account) for name, account in cluster.accounts.items()}
    weights = {name: account.fairshare for name, account in cluster.accounts.items()}
    for pool in cluster.pools:
        has = capacity(pool)
        for kind in resources(cluster):
            total = has.get(kind, 0)
            caps = {name: limit[pool.name].get(kind, total) for name, limit in limits.items()}
            for name, nominal in shares(total, weights, caps).items():
                cap = min(total, caps[name])
                found[name].setdefault(pool.name, {})[kind] = Quota(nominal, cap, capped=cap < total)
    return found


def shares(total: int, weights: dict[str, int], caps: dict[str, int]) -> dict[str, int]:
    """`total` split by `weights` into whole numbers, none above its cap; what a cap leaves goes to the others.

    They add up to `total`, or to all caps where these are less.
    """
    found: dict[str, int] = {}
    left, open_ = total, dict(weights)
    while True:
        sum_ = sum(open_.values())
        full = [name for name, weight in open_.items() if caps[name] * sum_ <= left * weight]
        if not full:
            break
        for name in full:
            found[name] = caps[name]
            del open_[name]
        left -= sum(caps[name] for name in full)
    if open_:
        sum_ = sum(open_.values())
        found |= {name: left * weight // sum_ for name, weight in open_.items()}
        rest = left - sum(found[name] for name in open_)
        # what rounding left, one unit each, to those that lost most by it; the first one of equals
        by_loss = sorted(open_, key=lambda name: -(left * open_[name] % sum_))
        for name in by_loss[:rest]:
            found[name] += 1
    return {name: found[name] for name in weights}


def _limits(cluster: Cluster, account: AccountFile) -> dict[str, dict[str, int]]:
    """max_nodes and max_gpus by pool. Kueue has no limit over several pools: it goes to them in the file's order."""
    nodes, gpus = account.max_nodes, account.max_gpus
    found: dict[str, dict[str, int]] = {}
    for pool in cluster.pools:
        limit: dict[str, int] = {}
        if nodes is not None:
            here = min(nodes, pool.count)
            nodes -= here
            limit = capacity(pool, here)
        name = resource(pool)
        if gpus is not None and name:
            limit[name] = min(gpus, limit.get(name, gpus), capacity(pool)[name])
            gpus -= limit[name]
        found[pool.name] = limit
    return found
