"""Place aws: EC2 instances in a private network, with EFA where the machine type says so. See aws_network.py.

No instance has a role: none calls an AWS service, so none has a right to lose.
"""

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.model import shape
from infra.model.cluster import Cluster
from infra.model.shape import MachineSpec
from infra.provision import cloudinit
from infra.provision.aws import instance as aws_instance
from infra.provision.aws import network as aws_network
from infra.provision.aws import security
from infra.provision.aws.network import Network
from infra.provision.program import Inputs

BASTION_TYPE, BASTION_ARCH, BASTION_DISK_GIB = "t4g.nano", "aarch64", 8
LUSTRE_STEP_GIB = 2400  # above the first 1200; source: FSx API reference, CreateFileSystem, StorageCapacity
LUSTRE_MB_PER_S = 125  # per TiB, the least of PERSISTENT_2


@dataclass(frozen=True)
class Storage:
    """A file system of AWS: `entry` is what machines mount."""

    entry: dict[str, Any]


def config(cluster: Cluster) -> dict[str, str]:
    """The provider's settings, for the stack's configuration."""
    return {"aws:region": str(cluster.spec.machines.region)}


def network(cluster: Cluster) -> Network:
    """Network, name service, security groups, key of the disks."""
    return aws_network.build(cluster)


def storage(cluster: Cluster, network: Network) -> Storage:
    """FSx for Lustre beside the machines, encrypted with the cluster's key."""
    zone = aws_network.zones(cluster)[0]
    system = aws.fsx.LustreFileSystem(
        shape.resource_name(cluster, "shared"),
        deployment_type="PERSISTENT_2",
        storage_type="SSD",
        storage_capacity=lustre_gib(cluster.spec.storage.capacity_gib),
        per_unit_storage_throughput=LUSTRE_MB_PER_S,
        data_compression_type="LZ4",
        kms_key_id=network.key.arn,
        subnet_ids=network.subnets[zone].id,
        security_group_ids=[network.groups["storage"].id],
        tags=security.named(cluster, "shared"),
        opts=pulumi.ResourceOptions(depends_on=[network.ready]),
    )
    source = pulumi.Output.concat(system.dns_name, "@tcp:/", system.mount_name)
    return Storage({"kind": "lustre", "source": source, "options": "noatime,flock"})


def lustre_gib(asked: int) -> int:
    """The size that FSx sells: 1200, or a multiple of 2400, at least what was asked for."""
    return 1200 if asked <= 1200 else -(-asked // LUSTRE_STEP_GIB) * LUSTRE_STEP_GIB


def machine(
    cluster: Cluster, spec: MachineSpec, network: Network, storage: Storage | None, inputs: Inputs
) -> dict[str, Any]:
    """One instance, its name in the private zone, and its entry of machines.json."""
    if network.bastion is None:
        network.bastion = _bastion(cluster, network, inputs)
    key = cloudinit.host_key(cluster, spec.name)
    data = cloudinit.user_data(
        spec.name, network.domain, cluster.spec.machines.admin, inputs.authorized_key, key
    )
    tags = shape.tags(cluster, spec) | {"Name": shape.resource_name(cluster, spec.name)}
    zone = spec.zone or aws_network.zones(cluster)[0]
    where: dict[str, Any] = {
        "subnet_id": network.subnets[zone].id,
        "vpc_security_group_ids": aws_instance.security(network, spec),
    }
    if aws_instance.fabric_cards(spec.hardware):
        template = aws_instance.template(cluster, spec, zone, network)
        # The template's interfaces say subnet and groups; EFA can only be attached when an instance is made.
        where = {
            "launch_template": aws.ec2.InstanceLaunchTemplateArgs(
                id=template.id, version=template.latest_version.apply(str)
            )
        }
    instance = aws_instance.build(
        cluster,
        spec.name,
        network,
        image=spec.image,
        arch=spec.hardware.architecture,
        disk_gib=spec.system_disk_gib,
        tags=tags,
        trigger=[spec.image, aws_instance.fabric_cards(spec.hardware)],
        instance_type=spec.hardware.instances["aws"],
        user_data=pulumi.Output.secret(data),
        **where,
        **aws_instance.capacity(cluster, spec, zone, network),
    )
    aws.route53.Record(
        shape.resource_name(cluster, f"name-{spec.name}"),
        zone_id=network.zone.zone_id,
        name=f"{spec.name}.{network.domain}",
        type="A",
        ttl=60,
        records=[instance.private_ip],
    )
    return shape.output(spec, instance.private_ip, key.public, instance.id)


def _bastion(cluster: Cluster, network: Network, inputs: Inputs) -> dict[str, Any]:
    """The one machine that SSH enters by; `command` carries SSH to it where it has no public address."""
    admin, public = cluster.spec.machines.admin, bool(cluster.spec.machines.ssh_from)
    key = cloudinit.host_key(cluster, "bastion")
    zone = aws_network.zones(cluster)[0]
    subnet = network.edge if public else network.subnets[zone]
    instance = aws_instance.build(
        cluster,
        "bastion",
        network,
        image=cluster.spec.machines.image,
        arch=BASTION_ARCH,
        disk_gib=BASTION_DISK_GIB,
        tags=shape.tags(cluster)
        | {"Name": shape.resource_name(cluster, "bastion"), "slipway:group": "bastion"},
        trigger=[cluster.spec.machines.image],
        instance_type=BASTION_TYPE,
        subnet_id=subnet.id,
        associate_public_ip_address=public,
        vpc_security_group_ids=[network.groups["admin"].id],
        user_data=pulumi.Output.secret(
            cloudinit.user_data("bastion", network.domain, admin, inputs.authorized_key, key)
        ),
    )
    tunnel = pulumi.Output.concat(
        f"aws ec2-instance-connect open-tunnel --region {cluster.spec.machines.region} --instance-id ",
        instance.id,
    )
    return {
        "address": instance.public_ip if public else instance.private_ip,
        "host_key": key.public,
        "command": None if public else tunnel,
        "id": instance.id,
    }
