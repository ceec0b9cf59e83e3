"""Ansible's inventory: groups are features (controller, login, compute, gpu ...), facts are variables of groups."""

from typing import Any

from infra.cluster import Cluster, Pool
from infra.render.text import origin, yaml


def render(cluster: Cluster) -> dict[str, str]:
    """ansible/inventory.yaml, group_vars/ for all hosts and each pool, host_vars/ for hosts with a service."""
    files = {"inventory": _inventory(cluster), "group_vars/all": _everywhere(cluster)}
    for pool in cluster.pools:
        files[f"group_vars/{_group(pool)}"] = _pool(cluster, pool)
    for host, services in _services(cluster).items():
        files[f"host_vars/{host}"] = {"slurm_services": services}
    return {f"ansible/{name}.yaml": f"---\n# {origin(cluster)}\n{yaml(data)}" for name, data in files.items()}


def _group(pool: Pool) -> str:
    """Ansible wants names of variables: `cpu-big` becomes pool_cpu_big."""
    return f"pool_{pool.name.replace('-', '_')}"


def _services(cluster: Cluster) -> dict[str, list[str]]:
    """What each service host runs; small sites put several services onto one host."""
    services = cluster.spec.services
    where = {
        "controller": [services.controller],
        "accounting": [services.accounting],
        "database": [services.database],
    }
    found: dict[str, list[str]] = {}
    for service, hosts in (where | {"login": cluster.login}).items():
        for host in hosts:
            found.setdefault(host, []).append(service)
    return found


def _hosts(expression: str) -> dict[str, None]:
    """A host list in Ansible's notation, one key per range: gpu-[1-4] is gpu-[1:4]."""
    import re

    parts = re.split(r",(?![^\[]*\])", expression)
    hosts: dict[str, None] = {}
    for part in parts:
        found = re.fullmatch(r"(.*)\[(.*)\]", part)
        for piece in found[2].split(",") if found else [None]:
            ends = piece.split("-") if piece else []
            hosts[
                f"{found[1]}[{ends[0]}:{ends[-1]}]"
                if found and len(ends) == 2
                else f"{found[1]}{ends[0]}"
                if found
                else part
            ] = None
    return hosts


def _inventory(cluster: Cluster) -> dict[str, Any]:
    services = cluster.spec.services
    groups: dict[str, Any] = {
        "controller": {"hosts": {services.controller: None}},
        "accounting": {"hosts": {services.accounting: None}},
        "database": {"hosts": {services.database: None}},
        "login": {"hosts": _hosts(services.login)},
    }
    for pool in cluster.pools:
        groups[_group(pool)] = {"hosts": _hosts(pool.hosts)}
    groups["compute"] = {"children": {_group(pool): None for pool in cluster.pools}}
    accelerated = [pool for pool in cluster.pools if pool.hardware.accelerators]
    for kind in sorted(
        {pool.hardware.accelerators.kind for pool in accelerated if pool.hardware.accelerators}
    ):
        groups[kind] = {
            "children": {
                _group(pool): None
                for pool in accelerated
                if pool.hardware.accelerators and pool.hardware.accelerators.kind == kind
            }
        }
    return {"all": {"children": groups}}


def _everywhere(cluster: Cluster) -> dict[str, Any]:
    services = cluster.spec.services
    return {
        "cluster_name": cluster.name,
        "cluster_place": cluster.place,
        "cluster_schedulers": list(cluster.schedulers),
        "cluster_rendered": "{{ inventory_dir | dirname }}",
        "slurm_controller": services.controller,
        "slurm_accounting": services.accounting,
        "slurm_database": services.database,
    }


def _pool(cluster: Cluster, pool: Pool) -> dict[str, Any]:
    gpus = pool.hardware.accelerators
    facts: dict[str, Any] = {
        "pool_name": pool.name,
        "pool_hardware": pool.hardware.name,
        "pool_architecture": pool.hardware.architecture,
        "pool_partition": pool.partition,
        "pool_node_facts": f"{{{{ cluster_rendered }}}}/nodes/{pool.name}.json",
        "pool_tmpfiles": f"{{{{ cluster_rendered }}}}/nodes/{pool.name}.tmpfiles",
        "pool_simulated": pool.simulated,
    }
    if pool.stack:
        facts |= {"stack_name": pool.stack.name, "stack_folder": pool.stack.folder}
    if gpus and gpus.driver and not pool.simulated:
        facts |= {"accelerator_vendor": gpus.vendor, "accelerator_driver": gpus.driver}
    return facts
