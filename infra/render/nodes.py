"""What a node of each pool must be, the device files that stand in for its accelerators, and users."""

import json
from functools import cache
from typing import Any

from infra.model.cluster import Cluster, Pool
from infra.model.hardware import Profile, device_files
from infra.model.load import load_profile
from infra.render.text import origin

THIS_HOST = "lab-cpu"  # the profile of a machine such as labs run on: a laptop or a virtual machine
NVIDIA_MAJOR = 195  # character devices of NVIDIA GPUs (Linux: Documentation/admin-guide/devices.txt)


def render(cluster: Cluster) -> dict[str, str]:
    """One JSON and one tmpfiles.d file for each pool, and the lab's users."""
    files = {}
    for pool in cluster.pools:
        files[f"nodes/{pool.name}.json"] = json.dumps(facts(cluster, pool), indent=2) + "\n"
        files[f"nodes/{pool.name}.tmpfiles"] = _tmpfiles(cluster, pool)
    if cluster.where.lab:
        files["sysusers.conf"] = _sysusers(cluster)
    return files


def facts(cluster: Cluster, pool: Pool) -> dict[str, Any]:
    """What the health check compares a node with; /etc/slipway/node.json on the node."""
    gpus = pool.hardware.accelerators
    peak = gpus.peak_tflops.model_dump(exclude_none=True) if gpus and not pool.simulated else None
    return {
        "rendered_from": origin(cluster),
        "cluster": cluster.name,
        "pool": pool.name,
        "hardware": pool.hardware.name,
        "architecture": cluster.host.arch if cluster.host else pool.hardware.architecture,
        "cpus": pool.cpus,
        "memory_mib": pool.memory_mib,
        "simulated": pool.simulated,
        "gpus": {
            "kind": gpus.kind if gpus else None,
            "vendor": gpus.vendor if gpus else None,
            "type": gpus.gres if gpus else None,
            "count": pool.gpus,
            "device_files": device_files(gpus.device_files) if gpus and gpus.device_files else [],
            "driver": None if pool.simulated or not gpus else gpus.driver,
            "fabric_manager": bool(gpus and gpus.fabric_manager and not pool.simulated),
            "peak_tflops": peak,
        },
        "cost": _cost(cluster, pool),
        "stack": pool.stack.folder if pool.stack else None,
        "shared": "/shared" if cluster.where.lab else cluster.spec.storage.path,
        "not_applicable": dict(pool.hardware.not_applicable),
    }


def _cost(cluster: Cluster, pool: Pool) -> dict[str, Any]:
    """What one node draws and costs: jobs read it (jobs/cluster/node.py). Of whatever really computes.

    A simulated machine costs nobody anything. What runs in its place is a part of this host, by its cores.
    """
    if not pool.simulated:
        power, share, price, hardware = pool.hardware.power, 1.0, pool.usd_per_hour, pool.hardware.name
    else:
        host = _profile(THIS_HOST)
        cores = cluster.host.cores if cluster.host else pool.cpus
        power, share, hardware = host.power, min(1.0, pool.cpus / cores), host.name
        price = host.price.usd_per_hour if host.price else None
    return {
        "hardware": hardware,
        "idle_w": round(power.idle_w * share, 2),
        "maximum_w": round(power.maximum_w * share, 2),
        "usd_per_hour": None if price is None else round(price * share, 6),
    }


@cache
def _profile(name: str) -> Profile:
    return load_profile(name)


def _tmpfiles(cluster: Cluster, pool: Pool) -> str:
    lines = [f"# What systemd-tmpfiles makes on a node of pool {pool.name}", f"# {origin(cluster)}"]
    gpus = pool.hardware.accelerators
    if pool.simulated and gpus and gpus.device_files:
        lines.append("# Simulated: no driver is behind these device files")
        lines += [
            f"c {path} 0666 root root - {NVIDIA_MAJOR}:{minor}"
            for minor, path in enumerate(device_files(gpus.device_files))
        ]
    if pool.stack:
        lines += ["d /opt/stack 0755 root root", f"L+ /opt/stack/current - - - - {pool.stack.folder}"]
    return "\n".join(lines) + "\n"


def _sysusers(cluster: Cluster) -> str:
    about = "with the ids of the person at this machine"
    lines = [f"# Users of {cluster.name}, {about}", f"# {origin(cluster)}"]
    for user in cluster.users:
        if user.uid is not None:
            lines.append(f"g {user.name} {user.gid}")
            lines.append(f'u {user.name} {user.uid}:{user.gid} "{user.name}" /home/{user.name} /bin/bash')
    return "\n".join(lines) + "\n"
