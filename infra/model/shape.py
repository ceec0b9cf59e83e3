"""What every place makes machines from: the cluster's pools, expanded, with names and tags. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

from infra.model.cluster import Cluster, Pool
from infra.model.hardware import Profile
from infra.model.places import PLACES, Place

SERVICES = "services"  # the group of the hosts that are there once per cluster
# Around the jobs' memory: systemd, sshd, slurmd and the exporter of one machine; the lab's figure, with sshd.
OVERHEAD_MIB = 320


@dataclass(frozen=True)
class MachineSpec:
    """One machine to be made. `index` is its position among all machines: services first, then the pools."""

    name: str
    group: str  # SERVICES, or the pool's name
    hardware: Profile
    place: Place
    zone: str | None
    image: str  # debian-13
    system_disk_gib: int
    spot: bool
    reservation: str | None
    simulated: bool
    usd_per_hour: float | None
    watts: float  # at the plug, at most
    parts: tuple[str, ...]  # of db, slurmdbd, slurmctld, login, compute
    index: int
    cpuset: str | None = None  # docker only
    memory_mib: int | None = None  # docker only


def machines(cluster: Cluster) -> list[MachineSpec]:
    """Every machine of the cluster, in an order that does not change when a pool at the end grows."""
    found = _services(cluster)
    first = 0  # core of the next docker machine
    for pool in cluster.pools:
        for name in pool.nodes:
            found.append(_node(cluster, pool, name, len(found), first))
            first += pool.cpus
    return found


def parts(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """What runs on each host of the services: a small site puts several parts onto one."""
    services = cluster.spec.services
    named = [
        ("db", services.database),
        ("slurmdbd", services.accounting),
        ("slurmctld", services.controller),
        *(("login", name) for name in cluster.login),
    ]
    return {host: tuple(part for part, name in named if name == host) for host in cluster.service_hosts}


def _services(cluster: Cluster) -> list[MachineSpec]:
    hardware = cluster.services_hardware
    assert hardware, "a cluster of real machines names the machine type of its services; the loader checks it"
    made = cluster.spec.machines
    return [
        MachineSpec(
            name=name,
            group=SERVICES,
            hardware=hardware,
            place=cluster.place,
            zone=made.zone,
            image=made.image,
            system_disk_gib=made.system_disk_gib,
            spot=False,  # the cluster must outlive a spot market
            reservation=None,
            simulated=False,
            usd_per_hour=hardware.price.usd_per_hour if hardware.price else None,
            watts=hardware.power.maximum_w,
            parts=held,
            index=index,
        )
        for index, (name, held) in enumerate(parts(cluster).items())
    ]


def _node(cluster: Cluster, pool: Pool, name: str, index: int, first: int) -> MachineSpec:
    made = cluster.spec.machines
    here = cluster.host if PLACES[pool.place].engine else None
    return MachineSpec(
        name=name,
        group=pool.name,
        hardware=pool.hardware,
        place=pool.place,
        zone=pool.zone or made.zone,
        image=made.image,
        system_disk_gib=made.system_disk_gib,
        spot=pool.spot,
        reservation=pool.reservation,
        simulated=pool.simulated,
        usd_per_hour=pool.usd_per_hour,
        watts=pool.hardware.power.maximum_w,
        parts=("compute",),
        index=index,
        cpuset=_cpuset(first, pool.cpus, here.cores) if here else None,
        memory_mib=pool.memory_mib + OVERHEAD_MIB if here else None,
    )


def _cpuset(first: int, count: int, cores: int) -> str:
    """Cores of its own while there are enough; beyond that machines share them."""
    return ",".join(str(core) for core in sorted({(first + i) % cores for i in range(count)}))


def resource_name(cluster: Cluster, what: str) -> str:
    """What a resource is called wherever it lives: slipway-<cluster>-<what>."""
    return f"slipway-{cluster.name}-{what}"


def tags(
    cluster: Cluster, spec: MachineSpec | None = None, *, form: Literal["tag", "label"] = "tag"
) -> dict[str, str]:
    """Whose a resource is, for the bill and for the clean-up. GCP takes the form of a label: no colons."""
    found = {"slipway:cluster": cluster.name, "managed-by": "slipway"}
    if spec:
        found |= {"slipway:group": spec.group, "slipway:hardware": spec.hardware.name}
    if form == "label":
        return {key.replace(":", "-"): value.replace(".", "-").lower() for key, value in found.items()}
    return found


def output(spec: MachineSpec, address: Any, host_key: Any, id: Any) -> dict[str, Any]:
    """One entry of machines.json. The last three may be outputs that Pulumi does not know yet.

    `host_key` is "ssh-ed25519 AAAA...", empty where the place cannot tell it.
    """
    return {
        "name": spec.name,
        "group": spec.group,
        "parts": list(spec.parts),
        "address": address,
        "host_key": host_key,
        "id": id,
        "place": spec.place,
        "hardware": spec.hardware.name,
        "usd_per_hour": spec.usd_per_hour,
        "watts": spec.watts,
        "simulated": spec.simulated,
    }
