"""What each machine's own firewall lets in: the rows of the port table that concern its parts.

Sources are networks and not single machines, so that no firewall changes when a machine comes or goes; in a
cloud, the security groups of the same table are exact as well.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

from infra.model import ports
from infra.model.cluster import Cluster


def rules(cluster: Cluster, parts: Iterable[str], *, serves_files: bool = False) -> list[dict[str, Any]]:
    """Rules of a machine with `parts`, one for each service: name, protocol, ports and sources."""
    mine = set(parts) | ({"storage"} if serves_files else set())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for port in ports.table(cluster):
        if not mine & set(ports.MEMBERS.get(port.to, (port.to,))):
            continue
        rule = found.setdefault(
            (port.service, port.protocol),
            {"name": port.service, "protocol": port.protocol, "ports": [], "sources": []},
        )
        if port.protocol != "icmp" and port.range not in rule["ports"]:
            rule["ports"].append(port.range)
        sources = admins(cluster) if port.source == "admin" else [cluster.spec.machines.cidr]
        rule["sources"] += [source for source in sources if source not in rule["sources"]]
    return list(found.values())


def admins(cluster: Cluster) -> list[str]:
    """From where Ansible and people log in."""
    machines = cluster.spec.machines
    if cluster.where.engine:  # this host, as the first address of its bridge
        network = ipaddress.ip_network(machines.cidr)
        return [str(network[1]), *machines.ssh_from]
    inside = [machines.cidr] if cluster.where.tunnel_inside else []
    return [*machines.ssh_from, *inside, *cluster.where.tunnels]
