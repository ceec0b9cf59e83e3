"""AWS: the network of a cluster. Private machines, a way out for packages, and one way in for SSH.

    VPC = machines.cidr, with one private subnet for each zone
        + 100.64.0.0/28 for the NAT gateway and the bastion

Nothing listens to the internet unless `machines.ssh_from` names networks; then the bastion does, on port 22.
Without it the bastion has no public address, and an EC2 Instance Connect endpoint carries SSH to it for whoever
AWS lets do that. It needs no agent and no role on the machines. Systems Manager would need both, and Debian's
images bring no agent.
"""

import ipaddress
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.model import shape
from infra.model.cluster import Cluster
from infra.provision.aws import security
from infra.provision.aws.security import ANYWHERE, named

# Shared address space (RFC 6598): clashes with no site's own network.
# Source that a VPC takes it: VPC user guide, "VPC CIDR blocks".
EDGE = "100.64.0.0/28"


@dataclass
class Network:
    """The parts of a network that storage and machines refer to."""

    vpc: aws.ec2.Vpc
    zone: aws.route53.Zone
    domain: str
    edge: aws.ec2.Subnet
    subnets: dict[str, aws.ec2.Subnet]  # by availability zone
    groups: dict[str, aws.ec2.SecurityGroup]  # a part of ports.PARTS, all, fabric, storage, admin
    key: aws.kms.Key
    ready: pulumi.Resource  # comes last; machines that boot earlier have no way out
    placements: dict[tuple[str, str], aws.ec2.PlacementGroup] = field(default_factory=dict)
    templates: dict[tuple[str, str], aws.ec2.LaunchTemplate] = field(default_factory=dict)
    bastion: Any = None  # made with the first machine, since only machines are given the key
    images: dict[str, Any] = field(default_factory=dict)


def zones(cluster: Cluster) -> list[str]:
    """The availability zones that machines are in, the cluster's own first."""
    own = cluster.spec.machines.zone
    found = [own, *(pool.zone for pool in cluster.pools)]
    return list(dict.fromkeys(zone for zone in found if zone))


def domain(cluster: Cluster) -> str:
    """Where host names resolve; machines look there for short ones."""
    return f"{cluster.name}.slipway.internal"


def build(cluster: Cluster) -> Network:
    """Everything that machines hang on."""
    name = partial(shape.resource_name, cluster)
    cidr = cluster.spec.machines.cidr
    vpc = aws.ec2.Vpc(
        name("vpc"),
        cidr_block=cidr,
        enable_dns_support=True,
        enable_dns_hostnames=True,
        tags=named(cluster, "vpc"),
    )
    # Every VPC has this group, and it is open inside; taken over, so that it is closed.
    aws.ec2.DefaultSecurityGroup(name("default"), vpc_id=vpc.id, tags=named(cluster, "default"))
    second = aws.ec2.VpcIpv4CidrBlockAssociation(name("edge"), vpc_id=vpc.id, cidr_block=EDGE)
    places = zones(cluster)
    edge = _subnet(cluster, "edge", vpc, EDGE, places[0], [second])
    parts = split(cidr, len(places))
    subnets = {
        zone: _subnet(cluster, f"private-{zone}", vpc, part, zone, [])
        for zone, part in zip(places, parts, strict=True)
    }
    routes = _routes(cluster, vpc, edge, subnets)
    options = aws.ec2.VpcDhcpOptions(
        name("dns"),
        domain_name=domain(cluster),
        domain_name_servers=["AmazonProvidedDNS"],
        tags=named(cluster, "dns"),
    )
    # One resource to wait for instead of all of them: a thousand machines wait for it.
    ready = aws.ec2.VpcDhcpOptionsAssociation(
        name("dns"),
        vpc_id=vpc.id,
        dhcp_options_id=options.id,
        opts=pulumi.ResourceOptions(depends_on=routes),
    )
    zone = aws.route53.Zone(
        name("zone"),
        name=domain(cluster),
        comment=f"Machines of {cluster.name}",
        vpcs=[aws.route53.ZoneVpcArgs(vpc_id=vpc.id)],
        tags=named(cluster, "zone"),
    )
    key = aws.kms.Key(
        name("disks"),
        description=f"Disks and file system of {cluster.name}",
        enable_key_rotation=True,
        deletion_window_in_days=7,
        tags=named(cluster, "disks"),
    )
    groups = security.build(cluster, vpc)
    if not cluster.spec.machines.ssh_from:
        aws.ec2transitgateway.InstanceConnectEndpoint(
            name("connect"),
            subnet_id=subnets[places[0]].id,
            security_group_ids=[groups["connect"].id],
            preserve_client_ip=False,
            tags=named(cluster, "connect"),
        )
    return Network(vpc, zone, domain(cluster), edge, subnets, groups, key, ready)


def split(cidr: str, count: int) -> list[str]:
    """`count` equal parts of a network; AWS wants parts of at least 16 addresses."""
    whole = ipaddress.ip_network(cidr)
    return [str(part) for part in whole.subnets(math.ceil(math.log2(count)) if count > 1 else 0)][:count]


def _subnet(
    cluster: Cluster, what: str, vpc: aws.ec2.Vpc, cidr: str, zone: str, after: list[pulumi.Resource]
) -> aws.ec2.Subnet:
    return aws.ec2.Subnet(
        shape.resource_name(cluster, what),
        vpc_id=vpc.id,
        cidr_block=cidr,
        availability_zone=zone,
        map_public_ip_on_launch=False,
        tags=named(cluster, what),
        opts=pulumi.ResourceOptions(depends_on=after),
    )


def _routes(
    cluster: Cluster, vpc: aws.ec2.Vpc, edge: aws.ec2.Subnet, subnets: dict[str, aws.ec2.Subnet]
) -> list[pulumi.Resource]:
    """The edge has the internet; private subnets reach out through it, and nothing reaches in."""
    name = partial(shape.resource_name, cluster)
    internet = aws.ec2.InternetGateway(name("internet"), vpc_id=vpc.id, tags=named(cluster, "internet"))
    address = aws.ec2.Eip(name("nat"), domain="vpc", tags=named(cluster, "nat"))
    nat = aws.ec2.NatGateway(
        name("nat"),
        allocation_id=address.id,
        subnet_id=edge.id,
        tags=named(cluster, "nat"),
        opts=pulumi.ResourceOptions(depends_on=[internet]),
    )
    made: list[pulumi.Resource] = []
    for what, nets, target in (
        ("edge", {"edge": edge}, {"gateway_id": internet.id}),
        ("private", subnets, {"nat_gateway_id": nat.id}),
    ):
        table = aws.ec2.RouteTable(name(what), vpc_id=vpc.id, tags=named(cluster, what))
        made.append(
            aws.ec2.Route(
                name(f"{what}-out"), route_table_id=table.id, destination_cidr_block=ANYWHERE, **target
            )
        )
        for part, subnet in nets.items():
            made.append(
                aws.ec2.RouteTableAssociation(
                    name(f"{what}-{part}"), subnet_id=subnet.id, route_table_id=table.id
                )
            )
    # S3 without the NAT gateway's price per byte
    aws.ec2.VpcEndpoint(
        name("s3"),
        vpc_id=vpc.id,
        vpc_endpoint_type="Gateway",
        service_name=f"com.amazonaws.{cluster.spec.machines.region}.s3",
        route_table_ids=[table.id],
        tags=named(cluster, "s3"),
    )
    return made
