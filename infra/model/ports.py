"""Who may talk to whom: the one table behind cloud security groups, the hosts' firewalls and their tests.

Everything that is not in the table is closed. Sources: slurm.conf and slurmdbd.conf of this repository (their
ports are Slurm's defaults), the protocols' own registrations for the rest.
"""

from dataclasses import dataclass
from typing import Literal

from infra.model.cluster import Cluster

Protocol = Literal["tcp", "udp", "icmp"]
# The five parts that a machine can have; sets of them; who serves files; who is outside of the cluster.
Group = Literal["db", "slurmdbd", "slurmctld", "login", "compute", "services", "all", "storage", "admin"]

PARTS = ("db", "slurmdbd", "slurmctld", "login", "compute")
MEMBERS: dict[str, tuple[str, ...]] = {
    **{part: (part,) for part in PARTS},
    "services": ("db", "slurmdbd", "slurmctld"),
    "all": PARTS,
}
SRUN_PORTS = (60001, 63000)  # SrunPortRange of slurm.conf


@dataclass(frozen=True)
class Port:
    """`source` may open connections to `number`..`last` on every machine of `to`."""

    service: str
    number: int  # 0 for icmp, which has none
    protocol: Protocol
    to: Group
    source: Group  # admin: the ranges of machines.ssh_from, the bastion, or this host for place docker
    until: int | None = None

    @property
    def last(self) -> int:
        return self.until or self.number

    @property
    def range(self) -> str:
        """22, or 60001-63000 as nftables and people write it."""
        return str(self.number) if self.last == self.number else f"{self.number}-{self.last}"


def _job(service: str, source: Group, to: Group) -> Port:
    return Port(service, SRUN_PORTS[0], "tcp", to, source, SRUN_PORTS[1])


PORTS: tuple[Port, ...] = (
    Port("ssh", 22, "tcp", "all", "admin"),
    Port("mariadb", 3306, "tcp", "db", "slurmdbd"),
    Port("slurmdbd", 6819, "tcp", "slurmdbd", "slurmctld"),
    Port("slurmdbd", 6819, "tcp", "slurmdbd", "login"),  # sacct, sacctmgr
    Port("slurmctld", 6817, "tcp", "slurmctld", "all"),
    Port("slurmrestd", 6820, "tcp", "slurmctld", "login"),
    Port("slurmd", 6818, "tcp", "compute", "slurmctld"),
    Port("slurmd", 6818, "tcp", "compute", "login"),
    Port("slurmd", 6818, "tcp", "compute", "compute"),
    Port("sackd", 6818, "tcp", "login", "slurmctld"),  # configless: told of a new slurm.conf
    Port("node-exporter", 9100, "tcp", "all", "slurmctld"),
    Port("prometheus", 9090, "tcp", "slurmctld", "login"),
    _job("srun", "all", "compute"),
    _job("srun", "all", "login"),
    # torchrun's rendezvous, gloo and NCCL take any free port
    Port("collectives", 1, "tcp", "compute", "compute", 65535),
    Port("collectives", 1, "udp", "compute", "compute", 65535),
    Port("ping", 0, "icmp", "all", "all"),
)
NFS = (Port("nfs", 2049, "tcp", "storage", "all"),)
# Lustre opens connections both ways, from ports below 1024. Source: FSx for Lustre user guide, "File system
# access control with Amazon VPC".
LUSTRE = (
    Port("lustre", 988, "tcp", "storage", "all"),
    Port("lustre", 1018, "tcp", "storage", "all", 1023),
    Port("lustre", 988, "tcp", "all", "storage"),
    Port("lustre", 1018, "tcp", "all", "storage", 1023),
)


def storage_protocol(cluster: Cluster) -> Literal["nfs", "lustre"] | None:
    """How the shared file system of the cluster is reached; None for a volume of the host, or none at all."""
    kind = cluster.where.storage if cluster.storage_kind == "place" else cluster.storage_kind
    return "lustre" if kind == "lustre" else "nfs" if kind == "nfs" else None


def table(cluster: Cluster) -> tuple[Port, ...]:
    """The rows that this cluster needs. The group `storage` is `file_server` or a service of the place."""
    protocol = storage_protocol(cluster)
    return PORTS + (NFS if protocol == "nfs" else LUSTRE if protocol == "lustre" else ())


def file_server(cluster: Cluster) -> str | None:
    """The machine of ours that serves the shared file system; None when the place or the site does."""
    own = cluster.storage_kind == "nfs" and not cluster.spec.storage.source
    return cluster.spec.services.controller if own else None
