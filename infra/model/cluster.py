"""What `clusters/<name>.yaml` may say, and the resolved cluster that rendering starts from."""

import ipaddress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from infra.model import hostlist
from infra.model.fields import Count, Facts, Label, Name, SlurmName, Text, UserName
from infra.model.hardware import Profile
from infra.model.host import Host
from infra.model.places import PLACES, Place, PlaceFacts
from infra.model.stacks import Stack

# In k8s/: a name that no one resolves, so that an image is in the node, or the pod says that it is not.
REGISTRY = "slipway.local"
Scheduler = Literal["slurm", "kubernetes"]
PublicKey = Annotated[
    str,
    Field(pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+|sk-\S+) [A-Za-z0-9+/]+=*( [^\n]*)?$"),
]
Folder = Annotated[str, Field(pattern=r"^(/[\w.-]+)+$", description="Absolute path")]


def _network(text: str) -> str:
    """CIDR in its canonical form. Raises ValueError."""
    return str(ipaddress.ip_network(text))


Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(lambda text: str(ipaddress.ip_address(text)))]


class PoolFile(Facts):
    """Machines of one type."""

    hardware: Text = Field(description="Machine type: a file of hardware/ without .yaml")
    count: PositiveInt = Field(description="How many machines")
    partition: SlurmName | None = Field(
        default=None, description="Slurm partition that they are in: a key of partitions; needed under Slurm"
    )
    nodes: Text | None = Field(
        default=None, description="Host names: c[1-2]; <pool>-[1-<count>] when missing"
    )
    place: Place | None = Field(default=None, description="Where they run, when not where the cluster does")
    zone: Text | None = Field(default=None, description="Cloud zone or data centre row")
    weight: PositiveInt = Field(default=1, description="Slurm uses nodes of lower weight first")
    features: list[Label] = Field(
        default=[], description="For sbatch --constraint, beside what the profile gives"
    )
    lab_cores: PositiveInt | None = Field(
        default=None, description="On this machine: cores of each node, instead of a fair share"
    )
    lab_memory_gib: PositiveInt | None = Field(
        default=None, description="On this machine: memory of each node, instead of a fair share"
    )
    mig: Text | None = Field(
        default=None,
        description="Kubernetes: what each GPU is cut into, a layout of the profile (1g.10gb); missing: whole",
    )
    spot: bool = Field(default=False, description="In a cloud: spare capacity that may be taken back")
    reservation: Text | None = Field(
        default=None, description="In a cloud: the capacity reservation that these machines use"
    )
    usd_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Instead of the profile's price"
    )


class PartitionFile(Facts):
    """A queue of Slurm; pools name the one that they are in."""

    default: bool = False
    time_limit_minutes: PositiveInt = Field(default=1440, description="Longest job")
    priority_tier: PositiveInt = Field(default=1, description="Jobs of a higher tier are looked at first")
    jobs_per_core: PositiveInt = Field(
        default=1, description="Jobs that may share a core when they ask for --oversubscribe"
    )


class QosFile(Facts):
    """A quality of service: sbatch --qos=<name>."""

    priority: Count = 0
    preempts: list[SlurmName] = Field(
        default=[], description="QOS whose jobs are requeued when this one needs their nodes"
    )
    grace_s: Count = Field(
        default=60, description="Seconds from the warning of its preempted jobs to their requeue"
    )
    max_gpus_per_job: PositiveInt | None = None
    max_gpus_per_user: PositiveInt | None = None
    max_jobs_per_user: PositiveInt | None = Field(default=None, description="Running at the same time")
    max_submitted_per_user: PositiveInt | None = Field(default=None, description="Running and waiting")
    time_limit_minutes: PositiveInt | None = None


class AccountFile(Facts):
    """Who pays: sbatch --account=<name>."""

    description: Text
    qos: Annotated[list[SlurmName], Field(min_length=1)] = Field(
        description="Allowed ones; the first is the default"
    )
    fairshare: PositiveInt = Field(
        default=1, description="Share of the cluster, in relation to the other accounts"
    )
    max_nodes: PositiveInt | None = Field(default=None, description="In use at the same time")
    max_gpus: PositiveInt | None = Field(default=None, description="In use at the same time")
    max_jobs: PositiveInt | None = Field(default=None, description="Running at the same time")
    max_submitted: PositiveInt | None = Field(default=None, description="Running and waiting")


class UserFile(Facts):
    """A person who submits jobs."""

    accounts: Annotated[list[SlurmName], Field(min_length=1)] = Field(description="The first is the default")
    uid: Annotated[int, Field(ge=1000, le=2_147_483_647)] | None = Field(
        default=None,
        description="Missing: in the lab the person at this machine, elsewhere the site's directory knows",
    )
    keys: list[PublicKey] = Field(default=[], description="Who may log in with which key on login nodes")


class MachinesFile(Facts):
    """How machines are made and reached, where they are not the lab's containers."""

    admin: Label = Field(default="admin", description="User that Ansible logs in as; may become root")
    image: Literal["debian-13", "debian-12"] = Field(default="debian-13", description="Operating system")
    ssh_from: list[Network] = Field(
        default=[], description="Networks that may reach SSH from outside; none: by the cloud's own tunnel"
    )
    cidr: Network = Field(default="10.77.0.0/24", description="Private network of the cluster")
    region: Text | None = Field(default=None, description="Of the cloud: eu-central-1, europe-west4")
    zone: Text | None = Field(default=None, description="Of the cloud; a pool's own zone counts first")
    project: Text | None = Field(default=None, description="Of Google Cloud")
    system_disk_gib: Annotated[int, Field(ge=20)] = 200
    backend: Text | None = Field(
        default=None, description="Where Pulumi keeps its state: an URL; build/<cluster>/state when missing"
    )


class StorageFile(Facts):
    """What all machines of a cluster share."""

    kind: Literal["place", "nfs", "lustre", "none"] | None = Field(
        default=None,
        description="place: what the place offers (docker: a volume, aws: FSx for Lustre, gcp: Filestore);"
        " missing: nfs on metal, place elsewhere",
    )
    source: Text | None = Field(
        default=None,
        description="server:/export or mgs@tcp:/fs of the site; with nfs and none, the controller serves",
    )
    capacity_gib: PositiveInt = Field(default=1200, description="Of what a cloud is asked for")
    path: Folder = Field(default="/shared", description="Where it is mounted; homes are in <path>/home")


class HostFile(Facts):
    """A machine that is there already; place metal."""

    address: Address
    bmc: Text | None = Field(default=None, description="Redfish address of the system, for power and boot")
    host_key: PublicKey | None = Field(default=None, description="SSH host key: ssh-ed25519 AAAA...")
    install: Text | None = Field(
        default=None,
        description="Any word, such as a date; a new one has the host boot from the network once",
    )


class BmcFile(Facts):
    """How to log in to the machines' management controllers; place metal."""

    user: Text = "root"
    password_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = Field(
        default="SLIPWAY_BMC_PASSWORD", description="Environment variable that holds the password"
    )
    verify_tls: bool = True
    power_off_on_remove: bool = Field(
        default=False, description="Shut a host down when it leaves the cluster; else it stays as it is"
    )


class SoftwareFile(Facts):
    """Versions that differ from those of the machines' own Debian."""

    slurm_suite: Annotated[str, Field(pattern=r"^[a-z]+(-backports)?$")] | None = Field(
        default=None, description="Debian suite that Slurm is installed from: trixie, forky"
    )
    spank: list[Text] = Field(
        default=[], description="Lines of Slurm's plugstack.conf: optional /usr/lib/slurm/mine.so"
    )
    registry: Text | None = Field(
        default=None,
        description="Kubernetes: where nodes pull our images from; missing: they have them, as slipway.local/...",
    )


class Services(Facts):
    """Host names of what is there once per cluster; a lab's containers have those of the defaults."""

    hardware: Text | None = Field(
        default=None, description="Machine type of these hosts; the lab's are containers"
    )
    controller: Name = "slurmctld"
    accounting: Name = "slurmdbd"
    database: Name = "db"
    login: Text = Field(default="login", description="One or a range: login-[1-2]")


class FabricFile(Facts):
    """How the site's switches are wired, where that differs from the profiles' reference design."""

    topology: Literal["flat", "tree", "block"] | None = Field(
        default=None,
        description="Missing: block when all pools have NVLink domains, else tree when one has leaf switches",
    )
    nodes_per_leaf: PositiveInt | None = None
    leaves_per_spine: PositiveInt | None = Field(
        default=None, description="Missing: one spine layer joins all leaves"
    )


class JobDefaults(Facts):
    """What a job gets that does not ask."""

    time_limit_minutes: PositiveInt = 60


class ClusterFile(Facts):
    """One cluster. Default: clusters/lab.yaml."""

    name: Label = Field(description="The file's name without .yaml; Slurm's ClusterName")
    description: Text = Field(description="One line for people")
    place: Place = Field(description="lab: containers on this machine, GPUs simulated. Others: real machines")
    schedulers: Annotated[list[Scheduler], Field(min_length=1)]
    services: Services = Services()
    fabric: FabricFile = FabricFile()
    pools: Annotated[dict[Label, PoolFile], Field(min_length=1)]
    partitions: dict[SlurmName, PartitionFile] = Field(default={}, description="Slurm's queues")
    qos: dict[SlurmName, QosFile] = Field(default={}, description="Slurm's qualities of service")
    accounts: dict[SlurmName, AccountFile] = Field(default={}, description="Who pays, with limits")
    users: dict[UserName, UserFile] = Field(
        default={}, description="Who submits; the lab's tools act as the first"
    )
    jobs: JobDefaults = JobDefaults()
    machines: MachinesFile = MachinesFile()
    storage: StorageFile = StorageFile()
    hosts: dict[Name, HostFile] = Field(default={}, description="Place metal: every machine by its name")
    bmc: BmcFile = BmcFile()
    software: SoftwareFile = SoftwareFile()


@dataclass(frozen=True)
class Pool:
    """Machines of one type as the schedulers see them; in the lab scaled to this machine."""

    name: str
    hardware: Profile
    nodes: tuple[str, ...]
    partition: str | None
    place: Place
    simulated: bool  # device files stand in for the accelerators
    stack: Stack | None  # None where no job of ours runs: TPUs
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory_mib: int
    features: tuple[str, ...]
    weight: int
    usd_per_hour: float | None
    zone: str | None
    mig: str | None
    spot: bool
    reservation: str | None

    @property
    def count(self) -> int:
        return len(self.nodes)

    @property
    def cpus(self) -> int:
        """Logical CPUs of one node that jobs can have."""
        return self.sockets * self.cores_per_socket * self.threads_per_core

    @property
    def gpus(self) -> int:
        """Accelerators of one node."""
        return self.hardware.gpus

    @property
    def devices(self) -> int:
        """What Kubernetes counts on one node: accelerators, or the instances that each one is cut into."""
        layouts = self.hardware.accelerators.mig if self.hardware.accelerators else []
        return self.gpus * next((layout.count for layout in layouts if layout.profile == self.mig), 1)

    @cached_property
    def hosts(self) -> str:
        """The nodes as a host list: c[1-2]."""
        return hostlist.compress(self.nodes)


@dataclass(frozen=True)
class User:
    """A person who submits jobs; `uid` and `gid` are None where the site's directory knows them."""

    name: str
    accounts: tuple[str, ...]
    uid: int | None
    gid: int | None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A cluster file with every reference looked up and every default worked out."""

    file: str  # its path as messages and headers name it
    spec: ClusterFile
    pools: tuple[Pool, ...]
    users: tuple[User, ...]
    services_hardware: Profile | None
    host: Host | None  # this machine; None unless the nodes are on it: places lab and docker

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def place(self) -> Place:
        return self.spec.place

    @property
    def stacks(self) -> list[str]:
        """Names of the stacks that its nodes have."""
        return sorted({pool.stack.name for pool in self.pools if pool.stack})

    @property
    def where(self) -> PlaceFacts:
        """What is true of its place."""
        return PLACES[self.place]

    @property
    def schedulers(self) -> list[Scheduler]:
        return self.spec.schedulers

    @property
    def accounts(self) -> dict[str, AccountFile]:
        return self.spec.accounts

    @property
    def login(self) -> list[str]:
        """Host names of the login nodes."""
        return hostlist.expand(self.spec.services.login)

    @property
    def service_hosts(self) -> list[str]:
        """Every host of a service once: a small site puts several onto one."""
        services = self.spec.services
        hosts = [services.controller, services.accounting, services.database, *self.login]
        return list(dict.fromkeys(hosts))

    @property
    def storage_kind(self) -> str:
        """place, nfs, lustre or none."""
        return self.spec.storage.kind or ("place" if self.where.storage else "nfs")

    @property
    def user(self) -> str:
        """Who submits jobs when no one else is named: the first user of the file."""
        return self.users[0].name

    @property
    def nodes(self) -> list[str]:
        """Every compute node, pool by pool."""
        return [node for pool in self.pools for node in pool.nodes]

    @property
    def build(self) -> Path:
        """Where it is rendered to, relative to the checkout."""
        return Path("build") / self.name


def registry(cluster: Cluster) -> str:
    """Where nodes pull our images from; in the lab they have them."""
    return cluster.spec.software.registry or REGISTRY
