"""Google Cloud: the network of a cluster. Private machines, a way out for packages, and one way in for SSH.

No machine of the cluster has a public address. SSH enters by the bastion: from the networks of
`machines.ssh_from`, or, when there are none, only through Identity-Aware Proxy, which lets in whom IAM names.
"""

import ipaddress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pulumi
import pulumi_gcp as gcp

from infra.model import ports, shape
from infra.model.cluster import Cluster

# Shared address space (RFC 6598), for what belongs to no site's own network: the bastion and the GPUs' networks.
EDGE = "100.64.0.0/28"
ANYWHERE = "0.0.0.0/0"
PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
OUT = {"tcp": ["80", "443"], "udp": ["123"]}
MTU = 8896  # the most that Google's networks carry


@dataclass
class Network:
    """The parts of a network that storage and machines refer to."""

    vpc: gcp.compute.Network
    edge: gcp.compute.Subnetwork
    subnet: gcp.compute.Subnetwork
    zone: gcp.dns.ManagedZone
    domain: str
    account: gcp.serviceaccount.Account
    ready: pulumi.Resource  # comes last; machines that boot earlier have no way out
    fabrics: dict[tuple[str, str], list[tuple[Any, Any]]] = field(default_factory=dict)  # network, subnet
    policies: dict[str, gcp.compute.ResourcePolicy] = field(default_factory=dict)
    bastion: Any = None  # made with the first machine, since only machines are given the key


def tag(cluster: Cluster, group: str) -> str:
    """The network tag that firewall rules know the machines of a group by."""
    return shape.resource_name(cluster, group)


def build(cluster: Cluster) -> Network:
    """Everything that machines hang on."""
    name = partial(shape.resource_name, cluster)
    vpc = gcp.compute.Network(
        name("vpc"),
        name=name("vpc"),
        description=f"Machines of {cluster.name}",
        auto_create_subnetworks=False,
        mtu=MTU,
        routing_mode="REGIONAL",
    )
    subnet = subnetwork(cluster, "private", vpc, cluster.spec.machines.cidr)
    edge = subnetwork(cluster, "edge", vpc, EDGE)
    router = gcp.compute.Router(
        name("router"), name=name("router"), network=vpc.id, region=cluster.spec.machines.region
    )
    nat = gcp.compute.RouterNat(
        name("nat"),
        name=name("nat"),
        router=router.name,
        region=cluster.spec.machines.region,
        nat_ip_allocate_option="AUTO_ONLY",
        source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
        # One resource to wait for instead of all of them: a thousand machines wait for it.
        opts=pulumi.ResourceOptions(depends_on=_firewall(cluster, vpc)),
    )
    zone = gcp.dns.ManagedZone(
        name("zone"),
        name=name("zone"),
        dns_name=f"{cluster.name}.slipway.internal.",
        description=f"Machines of {cluster.name}",
        visibility="private",
        private_visibility_config=gcp.dns.ManagedZonePrivateVisibilityConfigArgs(
            networks=[gcp.dns.ManagedZonePrivateVisibilityConfigNetworkArgs(network_url=vpc.id)]
        ),
        labels=shape.tags(cluster, form="label"),
    )
    # Without an account of its own, a TPU machine would get the project's default one, which may edit everything.
    account = gcp.serviceaccount.Account(
        name("machines"),
        account_id=account_id(cluster),
        display_name=f"Machines of {cluster.name}",
        description="Has no role: machines call no service of Google",
    )
    return Network(vpc, edge, subnet, zone, f"{cluster.name}.slipway.internal", account, nat)


def account_id(cluster: Cluster) -> str:
    """At most 30 characters, which is what Google takes. Long names are told apart by a sum of them."""
    import hashlib

    wanted = shape.resource_name(cluster, "node")
    if len(wanted) <= 30:
        return wanted
    return f"{wanted[:21]}-{hashlib.sha256(cluster.name.encode()).hexdigest()[:8]}"


def subnetwork(cluster: Cluster, what: str, vpc: Any, cidr: str) -> gcp.compute.Subnetwork:
    """A part of a network in the cluster's region."""
    return gcp.compute.Subnetwork(
        shape.resource_name(cluster, what),
        name=shape.resource_name(cluster, what),
        network=vpc.id,
        region=cluster.spec.machines.region,
        ip_cidr_range=cidr,
        private_ip_google_access=True,
        stack_type="IPV4_ONLY",
    )


def fabric(
    cluster: Cluster, group: str, zone: str, nic: str, count: int, network: Network
) -> list[tuple[Any, Any]]:
    """Networks of the interfaces that collectives of a pool run over: (network, subnet) of each of them.

    RDMA interfaces (mrdma) share one network of the zone's RoCE profile; others take a network each.
    Source: Google Cloud, "RDMA network profiles", and "Maximize GPU network bandwidth".
    """
    if (group, zone) not in network.fabrics:
        machines = ipaddress.ip_network(cluster.spec.machines.cidr)
        space = ipaddress.ip_network("100.64.0.0/10").subnets(new_prefix=min(28, machines.prefixlen))
        next(space)  # the edge is in the first
        for _ in range(sum(len(others) for others in network.fabrics.values())):
            next(space)
        vpc = None
        made = []
        for index in range(count):
            what = f"{group}-{zone}-{nic}-{index}"
            if vpc is None or nic != "mrdma":
                vpc = _fabric_vpc(cluster, what, zone, nic)
            made.append((vpc, subnetwork(cluster, what, vpc, str(next(space)))))
        network.fabrics[group, zone] = made
    return network.fabrics[group, zone]


def _fabric_vpc(cluster: Cluster, what: str, zone: str, nic: str) -> gcp.compute.Network:
    name = shape.resource_name(cluster, what)
    profile = f"projects/{cluster.spec.machines.project}/global/networkProfiles/{zone}-vpc-roce"
    vpc = gcp.compute.Network(
        name,
        name=name,
        description=f"Collectives of {cluster.name}",
        auto_create_subnetworks=False,
        mtu=MTU,
        network_profile=profile if nic == "mrdma" else None,
    )
    if nic != "mrdma":  # a RoCE network is open between its own interfaces, and reached by nothing else
        inside = [{"protocol": "all"}]
        _rule(
            cluster,
            f"fabric-{what}",
            vpc,
            allows=inside,
            source_tags=[tag(cluster, "compute")],
            target_tags=[tag(cluster, "compute")],
        )
    return vpc


def _firewall(cluster: Cluster, vpc: gcp.compute.Network) -> list[pulumi.Resource]:
    """The port table as rules between network tags; ingress is closed otherwise, and egress by the last rule."""
    made: list[pulumi.Resource] = []
    for row in ports.table(cluster):
        to, sources = _targets(cluster, row.to), _targets(cluster, row.source)
        if to and sources:
            what = f"{row.service}-{row.protocol}-{row.number}-{row.source}-to-{row.to}"
            made.append(
                _rule(
                    cluster,
                    what,
                    vpc,
                    allows=[_allow(row)],
                    source_tags=[tag(cluster, group) for group in sources],
                    target_tags=[tag(cluster, group) for group in to],
                )
            )
    ranges = cluster.spec.machines.ssh_from or list(cluster.where.tunnels)
    ssh: list[dict[str, Any]] = [{"protocol": "tcp", "ports": ["22"]}]
    made.append(
        _rule(
            cluster,
            "ssh-to-bastion",
            vpc,
            allows=ssh,
            source_ranges=ranges,
            target_tags=[tag(cluster, "admin")],
        )
    )
    out = [{"protocol": protocol, "ports": numbers} for protocol, numbers in OUT.items()]
    inside = [{"protocol": "all"}]
    cidr = cluster.spec.machines.cidr
    made.append(_rule(cluster, "out-inside", vpc, allows=inside, destination_ranges=[cidr]))
    made.append(_rule(cluster, "out-internet", vpc, allows=out, destination_ranges=[ANYWHERE]))
    stored = [_allow(row) for row in ports.table(cluster) if row.to == "storage"]
    if stored:  # Filestore and a site's server have private addresses outside of the subnet
        made.append(_rule(cluster, "out-storage", vpc, allows=stored, destination_ranges=PRIVATE))
    made.append(
        _rule(cluster, "out-closed", vpc, denies=inside, destination_ranges=[ANYWHERE], priority=65000)
    )
    return made


def _targets(cluster: Cluster, group: str) -> tuple[str, ...]:
    """The network tags of a group of the port table; a file server of the site or of Google has none."""
    if group == "storage":
        return ("slurmctld",) if ports.file_server(cluster) else ()
    return ports.MEMBERS[group] if group == "services" else (group,)


def _allow(row: ports.Port) -> dict[str, Any]:
    return (
        {"protocol": row.protocol}
        if row.protocol == "icmp"
        else {"protocol": row.protocol, "ports": [row.range]}
    )


def _rule(cluster: Cluster, what: str, vpc: Any, **more: Any) -> gcp.compute.Firewall:
    name = shape.resource_name(cluster, what)
    return gcp.compute.Firewall(
        name,
        name=short(name),
        network=vpc.id,
        direction="EGRESS" if "destination_ranges" in more else "INGRESS",
        **more,
    )


def short(name: str) -> str:
    """A name that Google takes: lower case, digits and hyphens, 63 at most; long ones keep a sum of the whole."""
    import hashlib
    import re

    plain = re.sub(r"[^a-z0-9-]", "-", name.lower())
    return plain if len(plain) <= 63 else f"{plain[:54]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
