"""Place gcp: Compute Engine and TPU machines in a private network. See gcp_network.py.

Disks and Filestore are encrypted by Google with Google's keys, always. A key of our own is left out on purpose:
Google never deletes a key ring, so that `cluster-down` would leave one behind, and the next `cluster-up` would
fail on its name.

OS Login is off: it maps Google accounts to users of the machines, while the cluster file says who they are. The
key of Ansible comes from the machine's own metadata; keys of the project are not let in.
"""

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_gcp as gcp

from infra.model import shape
from infra.model.cluster import Cluster
from infra.model.shape import MachineSpec
from infra.provision import cloudinit
from infra.provision.gcp import instance
from infra.provision.gcp import network as gcp_network
from infra.provision.gcp.network import Network, short, tag
from infra.provision.program import Inputs

IMAGES = {"x86_64": "debian-cloud/{image}", "aarch64": "debian-cloud/{image}-arm64"}
BASTION_TYPE = "e2-micro"
FILESTORE_STEP_GIB = 256  # from 1024 on; source: Filestore documentation, zonal service tier


@dataclass(frozen=True)
class Storage:
    """A file system of Google: `entry` is what machines mount."""

    entry: dict[str, Any]


def config(cluster: Cluster) -> dict[str, str]:
    """The provider's settings, for the stack's configuration."""
    made = cluster.spec.machines
    return {"gcp:project": str(made.project), "gcp:region": str(made.region), "gcp:zone": str(made.zone)}


def network(cluster: Cluster) -> Network:
    """Network, name service, firewall, the machines' account."""
    return gcp_network.build(cluster)


def storage(cluster: Cluster, network: Network) -> Storage:
    """Filestore, zonal tier, by NFS 4.1: one port, locks included."""
    system = gcp.filestore.Instance(
        shape.resource_name(cluster, "shared"),
        name=shape.resource_name(cluster, "shared"),
        location=cluster.spec.machines.zone,
        tier="ZONAL",
        protocol="NFS_V4_1",
        file_shares=gcp.filestore.InstanceFileSharesArgs(
            name="shared",
            capacity_gb=filestore_gib(cluster.spec.storage.capacity_gib),
            nfs_export_options=[
                gcp.filestore.InstanceFileSharesNfsExportOptionArgs(
                    ip_ranges=[cluster.spec.machines.cidr],
                    access_mode="READ_WRITE",
                    squash_mode="NO_ROOT_SQUASH",
                )
            ],
        ),
        networks=[
            gcp.filestore.InstanceNetworkArgs(
                network=network.vpc.name, modes=["MODE_IPV4"], connect_mode="DIRECT_PEERING"
            )
        ],
        labels=shape.tags(cluster, form="label"),
    )
    address = system.networks.apply(lambda found: found[0].ip_addresses[0])
    source = pulumi.Output.concat(address, ":/shared")
    return Storage({"kind": "nfs", "source": source, "options": "vers=4.1,hard,noatime"})


def filestore_gib(asked: int) -> int:
    """The size that Filestore sells: a multiple of 256 from 1024 on, at least what was asked for."""
    return max(1024, -(-asked // FILESTORE_STEP_GIB) * FILESTORE_STEP_GIB)


def machine(
    cluster: Cluster, spec: MachineSpec, network: Network, storage: Storage | None, inputs: Inputs
) -> dict[str, Any]:
    """One machine, its name in the private zone, and its entry of machines.json."""
    if network.bastion is None:
        network.bastion = _bastion(cluster, network, inputs)
    key = cloudinit.host_key(cluster, spec.name)
    facts = spec.hardware.cloud.get("gcp")
    if facts and facts.accelerator:
        made, address = _tpu(cluster, spec, network, inputs, key, facts.accelerator, str(facts.runtime))
    else:
        made, address = _instance(cluster, spec, network, inputs, key)
    gcp.dns.RecordSet(
        shape.resource_name(cluster, f"name-{spec.name}"),
        managed_zone=network.zone.name,
        name=f"{spec.name}.{network.domain}.",
        type="A",
        ttl=60,
        rrdatas=[address],
    )
    return shape.output(spec, address, key.public, made.id)


def _metadata(
    cluster: Cluster, name: str, network: Network, inputs: Inputs, key: cloudinit.HostKey
) -> dict[str, Any]:
    script = cloudinit.startup_script(name, network.domain, key)
    return {
        "enable-oslogin": "FALSE",
        "block-project-ssh-keys": "TRUE",
        "serial-port-enable": "FALSE",
        "ssh-keys": f"{cluster.spec.machines.admin}:{inputs.authorized_key}",
        "startup-script": pulumi.Output.secret(script),
    }


def _instance(
    cluster: Cluster, spec: MachineSpec, network: Network, inputs: Inputs, key: cloudinit.HostKey
) -> tuple[gcp.compute.Instance, Any]:
    zone = spec.zone or str(cluster.spec.machines.zone)
    facts = spec.hardware.cloud.get("gcp")
    nic = facts.fabric if facts else None
    fabric: list[tuple[Any, Any]] = []
    if nic and facts and facts.fabric_count:
        fabric = gcp_network.fabric(cluster, spec.group, zone, nic, facts.fabric_count, network)
    policy = instance.placement(cluster, spec, network)
    made = instance.build(
        cluster,
        spec.name,
        network,
        machine_type=spec.hardware.instances["gcp"],
        image=IMAGES[spec.hardware.architecture].format(image=spec.image),
        disk_gib=spec.system_disk_gib,
        disk=(facts.disk if facts else None) or "pd-balanced",
        zone=zone,
        labels=shape.tags(cluster, spec, form="label"),
        tags=[tag(cluster, group) for group in ("all", *spec.parts)],
        interfaces=[
            instance.interface(network.vpc, network.subnet, "GVNIC"),
            *(instance.interface(vpc, subnet, str(nic).upper()) for vpc, subnet in fabric),
        ],
        metadata=_metadata(cluster, spec.name, network, inputs, key),
        scheduling=instance.scheduling(spec, fixed=bool(spec.hardware.gpus or policy)),
        resource_policies=policy.id if policy else None,
        reservation_affinity=instance.affinity(spec),
        trigger=spec.image,
    )
    return made, made.network_interfaces[0].network_ip


def _tpu(
    cluster: Cluster,
    spec: MachineSpec,
    network: Network,
    inputs: Inputs,
    key: cloudinit.HostKey,
    accelerator: str,
    runtime: str,
) -> tuple[gcp.tpu.V2Vm, Any]:
    """A TPU machine; its image is Google's own, not `machines.image`."""
    name = shape.resource_name(cluster, spec.name)
    made = gcp.tpu.V2Vm(
        name,
        name=short(name),
        zone=spec.zone or cluster.spec.machines.zone,
        accelerator_type=accelerator,
        runtime_version=runtime,
        network_config=gcp.tpu.V2VmNetworkConfigArgs(
            network=network.vpc.id, subnetwork=network.subnet.id, enable_external_ips=False
        ),
        service_account=gcp.tpu.V2VmServiceAccountArgs(email=network.account.email, scopes=instance.SCOPES),
        scheduling_config=gcp.tpu.V2VmSchedulingConfigArgs(
            spot=spec.spot or None, reserved=bool(spec.reservation) or None
        ),
        shielded_instance_config=gcp.tpu.V2VmShieldedInstanceConfigArgs(enable_secure_boot=True),
        metadata=_metadata(cluster, spec.name, network, inputs, key),
        tags=[tag(cluster, group) for group in ("all", *spec.parts)],
        labels=shape.tags(cluster, spec, form="label"),
        opts=pulumi.ResourceOptions(depends_on=[network.ready]),
    )
    return made, made.network_endpoints.apply(lambda found: found[0].ip_address)


def _bastion(cluster: Cluster, network: Network, inputs: Inputs) -> dict[str, Any]:
    """The one machine that SSH enters by; `command` carries SSH to it where it has no public address."""
    made = cluster.spec.machines
    key = cloudinit.host_key(cluster, "bastion")
    interface = instance.interface(network.vpc, network.edge, "GVNIC")
    if made.ssh_from:
        interface.access_configs = [
            gcp.compute.InstanceNetworkInterfaceAccessConfigArgs(network_tier="PREMIUM")
        ]
    labels = shape.tags(cluster, form="label") | {"slipway-group": "bastion"}
    found = instance.build(
        cluster,
        "bastion",
        network,
        machine_type=BASTION_TYPE,
        image=IMAGES["x86_64"].format(image=made.image),
        disk_gib=10,
        disk="pd-balanced",
        zone=made.zone,
        labels=labels,
        tags=[tag(cluster, "admin")],
        interfaces=[interface],
        metadata=_metadata(cluster, "bastion", network, inputs, key),
        trigger=made.image,
    )
    inside = found.network_interfaces[0]
    tunnel = (
        f"gcloud compute start-iap-tunnel {short(shape.resource_name(cluster, 'bastion'))} 22"
        f" --listen-on-stdin --project={made.project} --zone={made.zone} --verbosity=warning"
    )
    return {
        "address": inside.access_configs[0].nat_ip if made.ssh_from else inside.network_ip,
        "host_key": key.public,
        "command": None if made.ssh_from else tunnel,
        "id": found.id,
    }
