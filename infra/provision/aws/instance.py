"""AWS: one instance, its image, its network interfaces, and where AWS finds the capacity for it."""

from typing import Any

import pulumi
import pulumi_aws as aws

from infra.model import shape
from infra.model.cluster import Cluster
from infra.model.hardware import Profile
from infra.model.shape import MachineSpec
from infra.provision.aws.network import Network
from infra.provision.aws.security import named

DEBIAN = "136693071363"  # Debian's account, source: https://wiki.debian.org/Cloud/AmazonEC2Image
ARCH = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "arm64")}
BLOCK = "block:"  # before the id of a reservation that is a capacity block
Target = aws.ec2.InstanceCapacityReservationSpecificationCapacityReservationTargetArgs


def fabric_cards(profile: Profile) -> list[int]:
    """Network cards of the AWS instance that get an EFA interface; none where it has no such fabric."""
    facts = profile.cloud.get("aws")
    if facts and facts.fabric == "efa":
        return facts.fabric_cards or list(range(facts.fabric_count or 0))
    own = [network for network in profile.network if network.kind == "efa" and network.use == "fabric"]
    return list(range(own[0].count)) if own else []


def build(
    cluster: Cluster,
    what: str,
    network: Network,
    *,
    image: str,
    arch: str,
    disk_gib: int,
    tags: dict[str, str],
    trigger: list[Any],
    **more: Any,
) -> aws.ec2.Instance:
    """What every machine here has: an encrypted disk, and a metadata service that takes only its own requests."""
    return aws.ec2.Instance(
        shape.resource_name(cluster, what),
        ami=_ami(network, image, arch),
        metadata_options=aws.ec2.InstanceMetadataOptionsArgs(
            http_endpoint="enabled",
            http_tokens="required",
            http_put_response_hop_limit=1,
            instance_metadata_tags="disabled",
        ),
        root_block_device=aws.ec2.InstanceRootBlockDeviceArgs(
            volume_type="gp3",
            volume_size=disk_gib,
            encrypted=True,
            kms_key_id=network.key.arn,
            delete_on_termination=True,
            tags=tags,
        ),
        tags=tags,
        opts=pulumi.ResourceOptions(
            depends_on=[network.ready],
            # Debian publishes a new image every few weeks: no reason to replace a running machine. Another
            # `image` in the cluster file is one, and so are other interfaces.
            ignore_changes=["ami", "userData", "launchTemplate"],
            replacement_trigger=trigger,
        ),
        **more,
    )


def _ami(network: Network, image: str, arch: str) -> pulumi.Output[str]:
    """The newest image of Debian's own account."""
    debian, amazon = ARCH[arch]
    title = f"{image}-{debian}"
    if title not in network.images:
        found = aws.ec2.get_ami_output(
            most_recent=True,
            owners=[DEBIAN],
            filters=[
                aws.ec2.GetAmiFilterArgs(name="name", values=[f"{title}-20*"]),
                aws.ec2.GetAmiFilterArgs(name="architecture", values=[amazon]),
                aws.ec2.GetAmiFilterArgs(name="virtualization-type", values=["hvm"]),
            ],
        )
        network.images[title] = found.id
    image_id: pulumi.Output[str] = network.images[title]
    return image_id


def security(network: Network, spec: MachineSpec) -> list[pulumi.Output[str]]:
    """At most five groups, which is what an interface takes: nobody is in compute and in a service."""
    return [network.groups[group].id for group in ("all", *spec.parts)]


def template(cluster: Cluster, spec: MachineSpec, zone: str, network: Network) -> aws.ec2.LaunchTemplate:
    """The interfaces of a pool's machines: one with an address, then one EFA-only on each card of the fabric.

    EFA-only interfaces take no address of the network. Source: EC2 user guide, "Maximize network bandwidth on
    Amazon EC2 instances with multiple network cards".
    """
    if (spec.group, zone) not in network.templates:
        subnet = network.subnets[zone].id
        tags = shape.tags(cluster, spec)

        def interface(card: int, device: int, kind: str) -> aws.ec2.LaunchTemplateNetworkInterfaceArgs:
            groups = security(network, spec) if kind == "interface" else [network.groups["fabric"].id]
            return aws.ec2.LaunchTemplateNetworkInterfaceArgs(
                network_card_index=card,
                device_index=device,
                interface_type=kind,
                subnet_id=subnet,
                security_groups=groups,
                associate_public_ip_address="false" if kind == "interface" else None,
                delete_on_termination="true",
            )

        network.templates[spec.group, zone] = aws.ec2.LaunchTemplate(
            shape.resource_name(cluster, f"{spec.group}-{zone}"),
            update_default_version=True,
            network_interfaces=[
                interface(0, 0, "interface"),
                *(interface(card, int(card == 0), "efa-only") for card in fabric_cards(spec.hardware)),
            ],
            tag_specifications=[
                aws.ec2.LaunchTemplateTagSpecificationArgs(resource_type="network-interface", tags=tags)
            ],
            tags=tags,
        )
    return network.templates[spec.group, zone]


def capacity(cluster: Cluster, spec: MachineSpec, zone: str, network: Network) -> dict[str, Any]:
    """Where AWS finds the machine: a reservation, spare capacity, or close to its neighbours."""
    found: dict[str, Any] = {}
    if spec.reservation:
        # `block:cr-...` is a capacity block, which brings its own placement, and is a market type of its own.
        found |= {
            "capacity_reservation_specification": aws.ec2.InstanceCapacityReservationSpecificationArgs(
                capacity_reservation_target=Target(
                    capacity_reservation_id=spec.reservation.removeprefix(BLOCK)
                )
            )
        }
        if spec.reservation.startswith(BLOCK):
            found["instance_market_options"] = aws.ec2.InstanceInstanceMarketOptionsArgs(
                market_type="capacity-block"
            )
        return found
    if spec.spot:
        found["instance_market_options"] = aws.ec2.InstanceInstanceMarketOptionsArgs(
            market_type="spot",
            spot_options=aws.ec2.InstanceInstanceMarketOptionsSpotOptionsArgs(
                spot_instance_type="one-time", instance_interruption_behavior="terminate"
            ),
        )
    if wants_placement(cluster, spec):
        if (spec.group, zone) not in network.placements:
            network.placements[spec.group, zone] = aws.ec2.PlacementGroup(
                shape.resource_name(cluster, f"{spec.group}-{zone}"),
                strategy="cluster",
                tags=named(cluster, f"{spec.group}-{zone}"),
            )
        found["placement_group"] = network.placements[spec.group, zone].name
    return found


def wants_placement(cluster: Cluster, spec: MachineSpec) -> bool:
    """Whether the machine type has a fabric and the pool more than one machine to join by it."""
    return any(pool.name == spec.group and pool.count > 1 for pool in cluster.pools) and any(
        network.use == "fabric" for network in spec.hardware.network
    )
