"""What a cluster is, for people and for machines: nodes, cores, GPUs, memory, power, price."""

import math
from typing import Any

from infra.model import hostlist
from infra.model.cluster import Cluster, Pool


def headline(cluster: Cluster) -> str:
    """One line: lab: 1 login + 2 compute (h100-sxm-8x, GPUs simulated), Slurm, on this machine."""
    types = ", ".join(dict.fromkeys(pool.hardware.name for pool in cluster.pools))
    if any(pool.simulated for pool in cluster.pools):
        types += ", GPUs simulated"
    schedulers = " + ".join(name.capitalize() for name in cluster.schedulers)
    where = "this machine" if cluster.where.lab else cluster.place
    nodes = [f"{len(cluster.login)} login"] if "slurm" in cluster.schedulers else []
    if cluster.where.lab and "kubernetes" in cluster.schedulers:
        nodes.append("1 control plane")
    nodes.append(f"{len(cluster.nodes)} compute")
    return f"{cluster.name}: {' + '.join(nodes)} ({types}), {schedulers}, on {where}"


def facts(cluster: Cluster) -> dict[str, Any]:
    """The table as plain data. Power and price are those of the real hardware, also where it is simulated."""
    pools = [_pool(pool) for pool in cluster.pools] + _services(cluster)
    totals = {
        key: sum(pool[key] for pool in pools) for key in ("nodes", "cores", "gpus", "memory_gib", "power_w")
    }
    prices = [pool["usd_per_hour"] for pool in pools]
    totals["usd_per_hour"] = None if None in prices else math.fsum(prices)
    return {
        "cluster": cluster.name,
        "file": cluster.file,
        "place": cluster.place,
        "schedulers": list(cluster.schedulers),
        "pools": pools,
        "total": totals,
    }


def _pool(pool: Pool) -> dict[str, Any]:
    gpus = pool.hardware.accelerators
    price = pool.usd_per_hour
    return {
        "pool": pool.name,
        "hardware": pool.hardware.name,
        "hosts": pool.hosts,
        "nodes": pool.count,
        "cores": pool.count * pool.sockets * pool.cores_per_socket,
        "gpus": pool.count * pool.gpus,
        "gpu_type": gpus.gres if gpus else None,
        "simulated": pool.simulated,
        "memory_gib": round(pool.count * pool.memory_mib / 1024, 1),
        "power_w": pool.count * pool.hardware.power.maximum_w,
        "usd_per_hour": None if price is None else round(pool.count * price, 4),
        "price_date": pool.hardware.price.date.isoformat() if pool.hardware.price else None,
        "stack": pool.stack.folder if pool.stack else None,
        "partition": pool.partition,
    }


def _services(cluster: Cluster) -> list[dict[str, Any]]:
    """The hosts of controller, accounting, database and login, where they are machines of their own."""
    profile = cluster.services_hardware
    if profile is None:
        return []
    count, price = len(cluster.service_hosts), profile.price
    return [
        {
            "pool": "services",
            "hardware": profile.name,
            "hosts": hostlist.compress(cluster.service_hosts),
            "nodes": count,
            "cores": count * profile.cpu.cores,
            "gpus": count * profile.gpus,
            "gpu_type": profile.accelerators.gres if profile.accelerators else None,
            "simulated": False,
            "memory_gib": float(count * profile.memory.capacity_gib),
            "power_w": count * profile.power.maximum_w,
            "usd_per_hour": round(count * price.usd_per_hour, 4) if price else None,
            "price_date": price.date.isoformat() if price else None,
            "stack": None,
            "partition": None,
        }
    ]


def show(cluster: Cluster) -> None:
    """Print the table: with colours on a terminal, plain elsewhere."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    data = facts(cluster)
    from infra.base.progress import Plain

    console = Plain()
    if not console.is_terminal:
        console.width = 160  # columns of a pipe: nothing is cut
    console.print(headline(cluster), soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=len(data["pools"]) > 1)
    total = data["total"]
    columns: list[tuple[str, str, str]] = [
        ("pool", "left", "total"),
        ("hardware", "left", ""),
        ("hosts", "left", ""),
        ("nodes", "right", f"{total['nodes']:,}"),
        ("cores", "right", f"{total['cores']:,}"),
        ("GPUs", "right", f"{total['gpus']:,}"),
        ("memory", "right", f"{total['memory_gib']:,.0f} GiB"),
        ("power", "right", _power(total["power_w"])),
        ("price", "right", _price(total["usd_per_hour"])),
        ("stack", "left", ""),
    ]
    for name, side, foot in columns:
        table.add_column(name, justify="right" if side == "right" else "left", footer=foot)
    for pool in data["pools"]:
        gpus = f"{pool['gpus']:,} {pool['gpu_type']}" if pool["gpu_type"] else "-"
        table.add_row(
            pool["pool"],
            pool["hardware"],
            pool["hosts"],
            f"{pool['nodes']:,}",
            f"{pool['cores']:,}",
            gpus,
            f"{pool['memory_gib']:,.0f} GiB",
            _power(pool["power_w"]),
            _price(pool["usd_per_hour"]),
            pool["stack"] or "-",
        )
    console.print(table)
    notes = ["Power: the most that the machines draw, without network, storage and cooling."]
    if any(pool["simulated"] for pool in data["pools"]):
        notes.append(
            "Cores and memory: this machine's. GPUs: simulated. Power and price: the real machines'."
        )
    console.print("\n".join(notes), soft_wrap=True)


def _power(watts: float) -> str:
    return f"{watts / 1000:,.1f} kW" if watts >= 1000 else f"{watts:.0f} W"


def _price(usd: float | None) -> str:
    return "not stated" if usd is None else f"{usd:,.2f} $/h"
