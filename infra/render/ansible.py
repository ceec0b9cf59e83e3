"""Ansible's inventory: groups are features (controller, login, compute, gpu ...), facts are their variables.

Hosts are ranges and facts belong to groups, so that its size grows with the pools and not with the nodes.
"""

import re
from typing import Any

from infra.base.version import number
from infra.model import hostlist, ports, shape
from infra.model.cluster import Cluster, Pool
from infra.model.hardware import Accelerators
from infra.render import firewall
from infra.render.text import origin, yaml

BUILD = "{{ inventory_dir | dirname }}"  # build/<cluster>, from which the roles copy


def render(cluster: Cluster) -> dict[str, str]:
    """inventory.yaml, group_vars/ for all hosts and each pool, host_vars/ for hosts of services."""
    files = {"inventory": _inventory(cluster), "group_vars/all": _everywhere(cluster)}
    for pool in cluster.pools:
        files[f"group_vars/{_group(pool)}"] = _pool(cluster, pool)
    for host, parts in shape.parts(cluster).items():
        serves = host == ports.file_server(cluster)
        files[f"host_vars/{host}"] = {
            "slurm_parts": list(parts),
            "firewall_rules": firewall.rules(cluster, parts, serves_files=serves),
            # homes are on the disk that all share: one machine makes them
            "users_make_homes": host == (ports.file_server(cluster) or cluster.spec.services.controller),
            **(_login(cluster) if "login" in parts else {}),
        }
    return {
        f"ansible/{name}.yaml": f"---\n# {origin(cluster)}\n{yaml(values)}" for name, values in files.items()
    }


def _group(pool: Pool) -> str:
    """Group names are like those of variables: pool cpu-big is group pool_cpu_big."""
    return f"pool_{pool.name.replace('-', '_')}"


def _ranges(hosts: str) -> dict[str, None]:
    """A host list as Ansible writes it, with zeros as wide: gpu-[08-100,120] is gpu-[08:99], gpu-100 and gpu-120."""
    found = []
    for part in re.split(r",(?![^\[]*\])", hosts):
        prefix, _, inside = part.rstrip("]").partition("[")
        for numbers in inside.split(","):
            first, _, last = numbers.partition("-")
            for low, high in hostlist.even(first, last or first):
                found.append(f"{prefix}{low}" if low == high else f"{prefix}[{low}:{high}]")
    return dict.fromkeys(found)


def _inventory(cluster: Cluster) -> dict[str, Any]:
    services = cluster.spec.services
    groups: dict[str, Any] = {
        "database": {"hosts": {services.database: None}},
        "accounting": {"hosts": {services.accounting: None}},
        "controller": {"hosts": {services.controller: None}},
        "login": {"hosts": _ranges(services.login)},
    }
    kinds: dict[str, dict[str, None]] = {}
    for pool in cluster.pools:
        groups[_group(pool)] = {"hosts": _ranges(pool.hosts)}
        if pool.hardware.accelerators:
            kinds.setdefault(pool.hardware.accelerators.kind, {})[_group(pool)] = None
    groups["compute"] = {"children": {_group(pool): None for pool in cluster.pools}}
    groups |= {kind: {"children": children} for kind, children in sorted(kinds.items())}
    return {"all": {"children": groups}}


def _everywhere(cluster: Cluster) -> dict[str, Any]:
    services = cluster.spec.services
    return {
        "cluster_name": cluster.name,
        "cluster_place": cluster.place,
        "cluster_schedulers": list(cluster.schedulers),
        "common_build": BUILD,
        "munge_build": BUILD,
        "slurm_build": BUILD,
        "slurm_controller": services.controller,
        # a database beside slurmdbd is reached by its socket only
        "slurm_database_bind_address": "127.0.0.1" if services.database == services.accounting else "*",
        "slurm_suite": cluster.spec.software.slurm_suite or "",
        "machine_container": cluster.where.here,
        "ssh_admin": cluster.spec.machines.admin,
        "firewall_metadata": cluster.where.rented,
        "prometheus_build": BUILD,
        "prometheus_address": ":9090",  # the firewall says to whom
        **_storage(cluster),
        **_users(cluster),
    }


def _storage(cluster: Cluster) -> dict[str, Any]:
    storage = cluster.spec.storage
    return {
        "storage_kind": cluster.storage_kind,
        "storage_path": storage.path,
        "storage_source": storage.source or "",
        "storage_server": ports.file_server(cluster) or "",
        "storage_clients": cluster.spec.machines.cidr,
    }


def _users(cluster: Cluster) -> dict[str, Any]:
    people = [
        {
            "name": user.name,
            "uid": user.uid,
            "gid": user.gid,
            "accounts": list(user.accounts),
            "keys": list(user.keys),
        }
        for user in cluster.users
    ]
    return {
        "users_people": people,
        "users_home": f"{cluster.spec.storage.path}/home",
    }


def _login(cluster: Cluster) -> dict[str, Any]:
    """Where people log in: who may, and the stack that they try things with."""
    names = [user.name for user in cluster.users if user.keys]
    stacks = [pool.stack.folder for pool in cluster.pools if pool.stack]
    return {"users_login": bool(names), "ssh_users": names, "stack_folder": stacks[0] if stacks else ""}


def _pool(cluster: Cluster, pool: Pool) -> dict[str, Any]:
    gpus = pool.hardware.accelerators
    facts: dict[str, Any] = {
        "slurm_parts": ["compute"],
        "common_pool": pool.name,
        "pool_hardware": pool.hardware.name,
        "pool_simulated": pool.simulated,
        "firewall_rules": firewall.rules(cluster, ["compute"]),
    }
    if pool.stack:
        facts |= {"stack_folder": pool.stack.folder}
    if gpus and gpus.driver and not pool.simulated:
        facts |= {
            "driver_vendor": gpus.vendor,
            "driver_version": gpus.driver,
            "nvidia_driver_oldest": (pool.stack.file.min_driver or "") if pool.stack else "",
            # the open kernel modules know Turing (7.5) and newer
            "nvidia_driver_open": _capability(gpus) >= (7, 5),
            "nvidia_driver_fabric_manager": gpus.fabric_manager,
        }
    return facts


def _capability(gpus: Accelerators) -> tuple[int, ...]:
    """9.0 as (9, 0); nothing known is nothing new."""
    return number(gpus.compute_capability or "").release
