"""Place docker: machines are containers of this host, made by the resources of docker_resources.py."""

from dataclasses import dataclass
from typing import Any

from pulumi import ResourceOptions

from infra.model.cluster import Cluster
from infra.model.shape import MachineSpec, output, resource_name, tags
from infra.provision.docker import resources
from infra.provision.program import Inputs

TMPFS = {"/run": "mode=755", "/run/lock": "", "/tmp": "mode=1777,exec"}  # noqa: S108
# On a host with cgroup v1: systemd 257 uses it only when told twice.
CGROUP_1 = {"SYSTEMD_PROC_CMDLINE": "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"}


@dataclass(frozen=True)
class Network:
    name: str
    resource: resources.Network
    bastion: None = None  # this host is in the network


@dataclass(frozen=True)
class Storage:
    name: str
    resource: resources.Volume
    path: str

    @property
    def entry(self) -> dict[str, Any]:
        return {"kind": "volume", "source": self.name, "options": None}


def network(cluster: Cluster) -> Network:
    """A bridge with the cluster's range, whose packets are no longer than the host's."""
    assert cluster.host, "place docker is on this machine; the loader has read it"
    name = resource_name(cluster, "network")
    props = {
        "name": name,
        "cidr": str(cluster.spec.machines.cidr),
        "mtu": cluster.host.mtu,
        "labels": tags(cluster),
    }
    return Network(name, resources.Network("network", props))


def storage(cluster: Cluster, network: Network) -> Storage:
    """A volume that all machines mount."""
    name = resource_name(cluster, "shared")
    volume = resources.Volume("shared", {"name": name, "labels": tags(cluster)})
    return Storage(name, volume, str(cluster.spec.storage.path))


def machine(
    cluster: Cluster, spec: MachineSpec, network: Network, storage: Storage | None, inputs: Inputs
) -> dict[str, Any]:
    """A container that is reached by SSH."""
    here = cluster.host
    assert here
    needs = [network.resource, *([storage.resource] if storage else [])]
    made = resources.Machine(
        spec.name,
        {
            "container": resource_name(cluster, spec.name),
            "hostname": spec.name,
            "image": inputs.image,
            "admin": cluster.spec.machines.admin,
            "authorized_key": inputs.authorized_key,
            "network": network.name,
            "network_id": network.resource.id,
            "connected": True,
            "mounts": mounts(cluster, spec, storage),
            "tmpfs": TMPFS,
            "privileged": True,
            "cpuset": spec.cpuset or "",
            "memory_mib": spec.memory_mib or 0,
            "environment": {"container": "docker", **(CGROUP_1 if here.cgroup == 1 else {})},
            "labels": tags(cluster, spec),
            "state": "running",
        },
        # A machine asked for anew has the name of the old one, which must be gone by then.
        ResourceOptions(depends_on=needs, delete_before_replace=True),
    )
    return output(spec, made.address, made.host_key, made.container_id)


def mounts(cluster: Cluster, spec: MachineSpec, storage: Storage | None) -> list[list[str]]:
    """The shared volume, and the stacks that jobs on this machine use, from the user's cache."""
    assert cluster.host
    found = [["volume", storage.name, storage.path, "rw"]] if storage else []
    for pool in cluster.pools:
        if pool.stack and (spec.group == pool.name or "login" in spec.parts):
            folder = pool.stack.folder
            found.append(["bind", f"{cluster.host.cache}/stacks/{folder}", f"/opt/stack/{folder}", "ro"])
    return sorted({tuple(mount): mount for mount in found}.values())
