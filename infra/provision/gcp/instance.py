"""Google Cloud: one machine, how it is scheduled, and what it is close to."""

from typing import Any

import pulumi
import pulumi_gcp as gcp

from infra.model import shape
from infra.model.cluster import Cluster
from infra.model.shape import MachineSpec
from infra.provision.gcp.network import Network, short

# A token of these reaches nothing: the account has no role.
SCOPES = ["https://www.googleapis.com/auth/logging.write"]


def build(
    cluster: Cluster,
    what: str,
    network: Network,
    *,
    image: str,
    disk_gib: int,
    disk: str,
    interfaces: list[Any],
    trigger: str,
    labels: dict[str, str],
    **more: Any,
) -> gcp.compute.Instance:
    """What every machine here has: a measured boot, and an account without a right."""
    name = shape.resource_name(cluster, what)
    return gcp.compute.Instance(
        name,
        name=short(name),
        boot_disk=gcp.compute.InstanceBootDiskArgs(
            auto_delete=True,
            initialize_params=gcp.compute.InstanceBootDiskInitializeParamsArgs(
                image=image, size=disk_gib, type=disk, labels=labels
            ),
        ),
        network_interfaces=interfaces,
        shielded_instance_config=gcp.compute.InstanceShieldedInstanceConfigArgs(
            # Secure boot would refuse NVIDIA's driver, which is built on the machine and signed by nobody.
            enable_secure_boot=False,
            enable_vtpm=True,
            enable_integrity_monitoring=True,
        ),
        service_account=gcp.compute.InstanceServiceAccountArgs(email=network.account.email, scopes=SCOPES),
        can_ip_forward=False,
        labels=labels,
        opts=pulumi.ResourceOptions(
            depends_on=[network.ready],
            # Another image of the same family is no reason to replace a running machine.
            ignore_changes=["bootDisk.initializeParams.image"],
            replacement_trigger=trigger,
        ),
        **more,
    )


def interface(vpc: Any, subnet: Any, kind: str) -> gcp.compute.InstanceNetworkInterfaceArgs:
    return gcp.compute.InstanceNetworkInterfaceArgs(
        network=vpc.id, subnetwork=subnet.id, nic_type=kind, stack_type="IPV4_ONLY"
    )


def scheduling(spec: MachineSpec, *, fixed: bool) -> gcp.compute.InstanceSchedulingArgs:
    """Machines with accelerators, or with a place of their own, cannot move to another host while they run."""
    return gcp.compute.InstanceSchedulingArgs(
        provisioning_model="SPOT" if spec.spot else "STANDARD",
        preemptible=spec.spot,
        automatic_restart=not spec.spot,
        on_host_maintenance="TERMINATE" if fixed or spec.spot else "MIGRATE",
        instance_termination_action="STOP" if spec.spot else None,
    )


def affinity(spec: MachineSpec) -> gcp.compute.InstanceReservationAffinityArgs | None:
    if not spec.reservation:
        return None
    return gcp.compute.InstanceReservationAffinityArgs(
        type="SPECIFIC_RESERVATION",
        specific_reservation=gcp.compute.InstanceReservationAffinitySpecificReservationArgs(
            key="compute.googleapis.com/reservation-name", values=[spec.reservation]
        ),
    )


def placement(cluster: Cluster, spec: MachineSpec, network: Network) -> gcp.compute.ResourcePolicy | None:
    """Close together where the machine type has a fabric: a policy for the pool, or one for each NVLink domain."""
    pool = next((pool for pool in cluster.pools if pool.name == spec.group), None)
    if pool is None or pool.count < 2 or not any(n.use == "fabric" for n in spec.hardware.network):
        return None
    domain = spec.hardware.fabric.nodes_per_nvlink_domain if spec.hardware.fabric else None
    what = f"{pool.name}-{pool.nodes.index(spec.name) // domain + 1}" if domain else pool.name
    if what not in network.policies:
        network.policies[what] = gcp.compute.ResourcePolicy(
            shape.resource_name(cluster, f"{what}-close"),
            name=shape.resource_name(cluster, f"{what}-close"),
            region=cluster.spec.machines.region,
            description=f"Pool {pool.name} of {cluster.name}",
            group_placement_policy=gcp.compute.ResourcePolicyGroupPlacementPolicyArgs(
                collocation="COLLOCATED",
                gpu_topology=f"1x{domain * spec.hardware.gpus}" if domain else None,
            ),
        )
    return network.policies[what]
