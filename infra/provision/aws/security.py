"""AWS: the security groups of a cluster, made from the port table. What no rule allows is closed."""

from typing import Any

import pulumi_aws as aws

from infra.model import ports, shape
from infra.model.cluster import Cluster

ANYWHERE = "0.0.0.0/0"
OUT = (("tcp", 80), ("tcp", 443), ("udp", 123))  # packages and time; DNS is the VPC's own


def named(cluster: Cluster, what: str) -> dict[str, str]:
    """Tags of a resource, with the name that AWS's console shows."""
    return shape.tags(cluster) | {"Name": shape.resource_name(cluster, what)}


def build(cluster: Cluster, vpc: aws.ec2.Vpc) -> dict[str, aws.ec2.SecurityGroup]:
    """One security group for each group of the port table; every rule is a row of it, or said here."""
    what = {
        "all": "every machine",
        **{part: f"machines with the part {part}" for part in ports.PARTS},
        "fabric": "interfaces that collectives run over",
        "storage": "the shared file system",
        "admin": "the bastion",
        "connect": "the endpoint that SSH comes through",
    }
    if cluster.spec.machines.ssh_from:
        del what["connect"]
    if cluster.storage_kind != "place":
        del what["storage"]
    groups = {
        group: aws.ec2.SecurityGroup(
            shape.resource_name(cluster, group),
            vpc_id=vpc.id,
            description=f"{cluster.name}: {text}",
            tags=named(cluster, group),
        )
        for group, text in what.items()
    }
    _rules(cluster, groups)
    return groups


def _rules(cluster: Cluster, groups: dict[str, aws.ec2.SecurityGroup]) -> None:
    for row in ports.table(cluster):
        for to in _expand(cluster, row.to, groups):
            for source in _expand(cluster, row.source, groups):
                title = f"{row.service}-{row.protocol}-{row.range}-{source}-to-{to}"
                _ingress(cluster, groups, title, to, row.protocol, row.number, row.last, source=source)
    # EFA asks for all traffic between its interfaces, both ways.
    # Source: EC2 user guide, "Prepare an EFA-enabled security group".
    _ingress(cluster, groups, "fabric", "fabric", "-1", 0, 0, source="fabric")
    _egress(cluster, groups, "fabric", "fabric", "-1", 0, 0, to="fabric")
    for source in cluster.spec.machines.ssh_from:
        _ingress(cluster, groups, f"ssh-from-{source}", "admin", "tcp", 22, 22, cidr=source)
    if "connect" in groups:
        _ingress(cluster, groups, "ssh-connect-to-admin", "admin", "tcp", 22, 22, source="connect")
        _egress(cluster, groups, "ssh-connect-to-admin", "connect", "tcp", 22, 22, to="admin")
    _egress(cluster, groups, "ssh-admin-to-all", "admin", "tcp", 22, 22, to="all")
    for group in ("all", "admin"):
        for protocol, port in OUT:
            _egress(
                cluster, groups, f"{group}-{protocol}-{port}-out", group, protocol, port, port, cidr=ANYWHERE
            )
    _egress(cluster, groups, "all-inside", "all", "-1", 0, 0, cidr=cluster.spec.machines.cidr)
    if "storage" in groups:
        # Its servers talk to each other. Source: FSx for Lustre user guide, "File system access control".
        for row in ports.LUSTRE:
            title = f"{row.service}-{row.range}-storage-to-storage"
            if row.to == "storage":
                _ingress(
                    cluster, groups, title, "storage", row.protocol, row.number, row.last, source="storage"
                )
        _egress(cluster, groups, "storage-inside", "storage", "-1", 0, 0, cidr=cluster.spec.machines.cidr)
    if cluster.spec.storage.source:  # of the site: its server is not in this network
        for row in ports.table(cluster):
            if row.to == "storage":
                title = f"{row.service}-{row.range}-to-site"
                _egress(cluster, groups, title, "all", row.protocol, row.number, row.last, cidr=ANYWHERE)


def _expand(cluster: Cluster, group: str, groups: dict[str, Any]) -> tuple[str, ...]:
    """The security groups of a group of the port table. A file server of the site is in none."""
    if group in groups:
        return (group,)
    if group == "storage":
        return ("slurmctld",) if ports.file_server(cluster) else ()
    return ports.MEMBERS[group]


def _ingress(
    cluster: Cluster,
    groups: dict[str, aws.ec2.SecurityGroup],
    title: str,
    to: str,
    protocol: str,
    first: int,
    last: int,
    *,
    source: str | None = None,
    cidr: str | None = None,
) -> None:
    aws.vpc.SecurityGroupIngressRule(
        shape.resource_name(cluster, f"in-{title}"),
        security_group_id=groups[to].id,
        description=f"{title.split('-')[0]} from {source or cidr}",
        referenced_security_group_id=groups[source].id if source else None,
        cidr_ipv4=cidr,
        tags=shape.tags(cluster),
        **_range(protocol, first, last),
    )


def _egress(
    cluster: Cluster,
    groups: dict[str, aws.ec2.SecurityGroup],
    title: str,
    group: str,
    protocol: str,
    first: int,
    last: int,
    *,
    to: str | None = None,
    cidr: str | None = None,
) -> None:
    aws.vpc.SecurityGroupEgressRule(
        shape.resource_name(cluster, f"out-{title}"),
        security_group_id=groups[group].id,
        description=f"{title.split('-')[0]} to {to or cidr}",
        referenced_security_group_id=groups[to].id if to else None,
        cidr_ipv4=cidr,
        tags=shape.tags(cluster),
        **_range(protocol, first, last),
    )


def _range(protocol: str, first: int, last: int) -> dict[str, Any]:
    """All traffic has no ports, and ICMP has types: -1 is any."""
    if protocol == "-1":
        return {"ip_protocol": "-1"}
    if protocol == "icmp":
        return {"ip_protocol": "icmp", "from_port": -1, "to_port": -1}
    return {"ip_protocol": protocol, "from_port": first, "to_port": last}
