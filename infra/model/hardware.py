"""What `hardware/<type>.yaml` may say: the facts of one machine type.

Units are in the keys' names, as vendors use them: `gib` is 2^30 bytes, `gb` 10^9 bytes, `gbps` 10^9 bits per
second, `gb_per_s` 10^9 bytes per second, `tflops` 10^12 dense operations per second, `w` watts, `usd` US $.
Every block of figures names its `source`, a key of `sources`.
"""

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator

from infra.model.fields import Facts, Name, Text
from infra.model.yamlfile import nearest

Architecture = Literal["x86_64", "aarch64"]
Version = Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")]
Capability = Annotated[
    str, Field(pattern=r"^\d+\.\d+$", description="CUDA compute capability, in quotes: '9.0'")
]


def _type(text: str) -> str:
    """Slurm reads --gres=gpu:8 and gpu:8k as counts. Raises ValueError."""
    if re.fullmatch(r"\d+[kmgtp]?", text):
        raise ValueError(f"'{text}' is read as a count by Slurm; begin it with a letter")
    return text


GresType = Annotated[Name, AfterValidator(_type)]


class Sourced(Facts):
    """A block of figures from one datasheet."""

    source: Text = Field(description="Where the figures are from: a key of `sources`")
    other_sources: dict[str, Text] = Field(
        default={}, description="Of single figures from elsewhere: idle_w: estimate, numa: unconfirmed"
    )


class Cpu(Sourced):
    model: Text
    sockets: PositiveInt
    cores_per_socket: PositiveInt
    threads_per_core: PositiveInt = Field(
        description="Hardware threads that the operating system sees per core"
    )
    numa_nodes: PositiveInt = Field(description="Memory domains with cores in the whole machine")

    @property
    def cores(self) -> int:
        return self.sockets * self.cores_per_socket

    @property
    def threads(self) -> int:
        return self.cores * self.threads_per_core


class Memory(Sourced):
    capacity_gib: PositiveInt


class Link(Facts):
    """What joins the accelerators of one machine."""

    kind: Text = Field(description="nvlink, xgmi, pcie, ici ...")
    bandwidth_gb_per_s: PositiveFloat = Field(
        description="Per accelerator, both directions added, as vendors state it"
    )
    switches: PositiveInt | None = Field(
        default=None,
        description="Switches inside of one machine (NVSwitch), which NVIDIA's fabric manager sets up; missing: none",
    )


class PeakTflops(Facts):
    """Dense peak per accelerator and precision, 10^12 operations per second; without structured sparsity.

    Of the units that are fastest at it: matrix units (tensor cores) where they take the precision.
    """

    fp64: PositiveFloat | None = None
    fp32: PositiveFloat | None = None
    tf32: PositiveFloat | None = None
    bf16: PositiveFloat | None = None
    fp16: PositiveFloat | None = None
    fp8: PositiveFloat | None = None
    fp4: PositiveFloat | None = None
    int8: PositiveFloat | None = None


class MigLayout(Facts):
    """One way to cut each GPU into instances of equal size (NVIDIA Multi-Instance GPU)."""

    profile: Annotated[str, Field(pattern=r"^\d+g\.\d+gb$", description="As nvidia-smi names it: 1g.10gb")]
    count: PositiveInt = Field(description="Instances per GPU")


Numa = list[Annotated[int, Field(ge=0)]]


class Accelerators(Sourced):
    kind: Literal["gpu", "tpu", "fpga"]
    vendor: Name = Field(description="nvidia, amd, google ...: stacks say whose devices they drive")
    model: Text
    gres: GresType = Field(description="Type in Slurm: --gres=gpu:<this>:1")
    count: PositiveInt = Field(description="Per machine")
    memory_gib: PositiveFloat = Field(description="Per accelerator")
    memory_bandwidth_gb_per_s: PositiveFloat = Field(description="Per accelerator")
    peak_tflops: PeakTflops
    link: Link | None = None
    compute_capability: Capability | None = None
    driver: Version | None = Field(
        default=None, description="Driver on these machines, of a branch that the vendor maintains for them"
    )
    device_files: Text | None = Field(
        default=None, description="One per accelerator, as a range: /dev/nvidia[0-7]"
    )
    numa: Numa | None = Field(default=None, description="NUMA node that each one hangs on, in device order")
    kubernetes_resource: Text | None = Field(
        default=None, description="Extended resource of the vendor's device plugin"
    )
    mig: list[MigLayout] = Field(default=[], description="What a pool may ask for")

    @property
    def fabric_manager(self) -> bool:
        """Whether NVIDIA's service sets up switches of this machine, without which its GPUs do not start."""
        return self.vendor == "nvidia" and self.link is not None and self.link.switches is not None


class Network(Sourced):
    kind: Literal["ethernet", "roce", "infiniband", "efa"]
    use: Literal["fabric", "storage", "management"] = Field(description="fabric: what collectives run over")
    count: PositiveInt = Field(description="Ports per machine")
    bandwidth_gbps: PositiveFloat = Field(description="Per port and direction")


class Fabric(Sourced):
    """How the vendor's reference design joins such machines: becomes Slurm's topology."""

    nodes_per_leaf: PositiveInt | None = Field(
        default=None, description="Machines on one leaf switch (or one rail group)"
    )
    nodes_per_nvlink_domain: PositiveInt | None = Field(
        default=None, description="Machines whose GPUs share one NVLink domain: a block in Slurm"
    )


class Disk(Sourced):
    kind: Literal["nvme", "sata", "emmc", "network"]
    use: Literal["system", "scratch"]
    count: PositiveInt
    capacity_gb: PositiveInt


class Power(Sourced):
    """At the plug, whole machine."""

    idle_w: PositiveFloat
    maximum_w: PositiveFloat


class Price(Sourced):
    """Per machine; a pool may override the figure."""

    usd_per_hour: Annotated[float, Field(ge=0)]
    date: datetime.date = Field(description="A day on which it was so; where known, the first one")
    basis: Text = Field(
        description="What that buys: a cloud's on-demand list price, own estimate over three years ..."
    )


class CloudCpu(Facts):
    """What the machine shows to its operating system."""

    sockets: PositiveInt
    cores_per_socket: PositiveInt
    threads_per_core: PositiveInt
    numa_nodes: PositiveInt


class CloudMachine(Sourced):
    """What a cloud's machine of this type has otherwise than the vendor's."""

    cpu: CloudCpu | None = Field(default=None, description="Instead of the same keys of cpu")
    memory_gib: PositiveInt | None = Field(default=None, description="Instead of memory.capacity_gib")
    numa: Numa | None = Field(default=None, description="Instead of accelerators.numa")
    fabric: Literal["efa", "gvnic", "mrdma"] | None = Field(
        default=None, description="Kind of the network interfaces that collectives run over"
    )
    fabric_count: PositiveInt | None = Field(default=None, description="How many of those")
    fabric_cards: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="Network cards that they are on (AWS); 0 to fabric_count - 1 when missing"
    )
    disk: Text | None = Field(
        default=None, description="Kind of system disk, where the cloud's usual one does not fit"
    )
    accelerator: Text | None = Field(default=None, description="Name in Google's TPU API: v5litepod-8")
    runtime: Text | None = Field(default=None, description="Image of TPU machines: v2-alpha-tpuv5-lite")


class AtLeast(Facts):
    at_least: PositiveFloat
    why: Text = Field(description="Where the threshold comes from")


class AtMost(Facts):
    at_most: PositiveFloat
    why: Text = Field(description="Where the threshold comes from")


class Acceptance(Facts):
    """What a machine must reach before it gets work. Per accelerator unless the key says otherwise."""

    gemm_fp32_tflops: AtLeast | None = None
    gemm_bf16_tflops: AtLeast | None = None
    gemm_fp16_tflops: AtLeast | None = None
    gemm_fp8_tflops: AtLeast | None = None
    memory_gb_per_s: AtLeast | None = None
    host_to_device_gb_per_s: AtLeast | None = None
    all_reduce_bus_gb_per_s: AtLeast | None = Field(
        default=None, description="Bus bandwidth, all accelerators of one machine"
    )
    network_gbps: AtLeast | None = Field(default=None, description="Per fabric port and direction")
    cpu_memory_gb_per_s: AtLeast | None = Field(default=None, description="Whole machine, STREAM triad")
    disk_write_gb_per_s: AtLeast | None = Field(default=None, description="Per scratch disk, sequential")
    temperature_c: AtMost | None = Field(default=None, description="Under load")


class Profile(Facts):
    """One machine type. The file is `hardware/<name>.yaml`; adding it is all that a new type needs."""

    name: Name = Field(description="The file's name without .yaml")
    description: Text = Field(description="One line for people")
    vendor: Text
    model: Text
    architecture: Architecture
    sources: dict[str, Text] = Field(description="Datasheets: a short key for each title and address")
    cpu: Cpu
    memory: Memory
    accelerators: Accelerators | None = None
    network: Annotated[list[Network], Field(min_length=1)]
    fabric: Fabric | None = None
    disks: list[Disk] = Field(default=[])
    power: Power
    price: Price | None = None
    instances: dict[Literal["aws", "gcp", "azure"], Text] = Field(
        default={}, description="What clouds call this machine"
    )
    cloud: dict[Literal["aws", "gcp", "azure"], CloudMachine] = Field(
        default={}, description="What a cloud's machine has otherwise than the figures above"
    )
    acceptance: Acceptance = Acceptance()
    not_applicable: dict[Literal["accelerators", "ecc"], Text] = Field(
        default={},
        description="Parts of the health check that do not apply to this machine type, each with why;"
        " all others must pass",
    )

    @field_validator("sources")
    @classmethod
    def _address(cls, sources: dict[str, str]) -> dict[str, str]:
        for key, text in sources.items():
            if len(text) < 10:
                raise ValueError(f"{key}: '{text}' is no source; write the document's title and address")
        return sources

    @property
    def gpus(self) -> int:
        """Accelerators per machine."""
        return self.accelerators.count if self.accelerators else 0

    def at(self, place: str) -> "Profile":
        """The machine as `place` rents it: a cloud's has other cores and memory than the vendor's."""
        cloud = self.cloud.get(place)  # type: ignore[call-overload]
        if cloud is None:
            return self
        changes: dict[str, Any] = {}
        if cloud.cpu:
            changes["cpu"] = self.cpu.model_copy(update=dict(cloud.cpu))
        if cloud.memory_gib:
            changes["memory"] = self.memory.model_copy(update={"capacity_gib": cloud.memory_gib})
        if cloud.numa and self.accelerators:
            changes["accelerators"] = self.accelerators.model_copy(update={"numa": cloud.numa})
        return self.model_copy(update=changes)

    @property
    def judged(self) -> bool:
        """Whether the health check can tell of its accelerators, or is told why it need not."""
        gpus = self.accelerators
        return gpus is None or gpus.vendor in JUDGED or "accelerators" in self.not_applicable

    @property
    def usable_mib(self) -> int:
        """Memory that the operating system shows at least, by which Slurm judges a node, in whole 100 MiB.

        The kernel's page tables take 1.6 %, firmware, crash kernel and hypervisor up to a GiB more: clouds show 62.1
        of 64 GiB, a Jetson 61.4.
        """
        return int(self.memory.capacity_gib * 1024 * 0.97 - 1024) // 100 * 100


JUDGED = ("nvidia", "amd", "intel")  # vendors whose accelerators slurm/health_check.py knows


def blocks(profile: Profile) -> list[tuple[tuple[str | int, ...], Sourced]]:
    """Every block with a source, and its key in the file."""
    found: list[tuple[tuple[str | int, ...], Sourced]] = []
    for name in type(profile).model_fields:
        value = getattr(profile, name)
        if isinstance(value, Sourced):
            found.append(((name,), value))
        elif isinstance(value, list):
            found += [((name, i), item) for i, item in enumerate(value) if isinstance(item, Sourced)]
        elif isinstance(value, dict):
            found += [((name, key), item) for key, item in value.items() if isinstance(item, Sourced)]
    return found


def device_files(text: str) -> list[str]:
    """`/dev/nvidia[0-2]` as its three paths. Raises ValueError."""
    found = re.fullmatch(r"(/dev/[\w/.-]*)(?:\[(\d+)-(\d+)\])?", text)
    if not found:
        raise ValueError(f"'{text}' is no range of device files; write it like /dev/nvidia[0-7]")
    if found[2] is None:
        return [found[1]]
    return [f"{found[1]}{n}" for n in range(int(found[2]), int(found[3]) + 1)]


def rules(profile: Profile, stem: str) -> list[tuple[tuple[str | int, ...], str]]:
    """What is wrong between the keys of a profile, each with its key."""
    wrong: list[tuple[tuple[str | int, ...], str]] = []
    if profile.name != stem:
        wrong.append((("name",), f"'{profile.name}' is not the file's name; write '{stem}'"))
    used = set()
    for key, block in blocks(profile):
        named = {(*key, "source"): block.source}
        for figure, source in block.other_sources.items():
            named[*key, "other_sources", figure] = source
            if figure not in type(block).model_fields:
                near = nearest(figure, type(block).model_fields)
                wrong.append(((*key, "other_sources", figure), f"no figure of this block.{near}"))
        used |= set(named.values())
        for place, source in named.items():
            if source not in profile.sources:
                wrong.append((place, f"'{source}' is not in sources: {', '.join(profile.sources)}"))
    for source in profile.sources:
        if source not in used:
            wrong.append((("sources", source), "no block names it; a source that supports nothing is to go"))
    if profile.power.idle_w > profile.power.maximum_w:
        wrong.append((("power", "idle_w"), f"{profile.power.idle_w:g} is above maximum_w"))
    wrong += [(("cpu", "numa_nodes"), text) for text in _numa_rules(profile.cpu)]
    if profile.memory.capacity_gib < 2:
        wrong.append((("memory", "capacity_gib"), "less than 2 GiB leave nothing for jobs"))
    for name, cloud in profile.cloud.items():
        wrong += [(("cloud", name, key), text) for key, text in _cloud_rules(profile, name, cloud)]
    if profile.accelerators:
        wrong += [
            (("accelerators", key), text) for key, text in _accelerator_rules(profile, profile.accelerators)
        ]
    return wrong


def _numa_rules(cpu: Cpu) -> list[str]:
    """Slurm wants as many cores in each domain, and as many domains in each socket, or sockets in each domain."""
    nodes, sockets = cpu.numa_nodes, cpu.sockets
    if nodes <= cpu.cores and cpu.cores % nodes == 0 and (nodes % sockets == 0 or sockets % nodes == 0):
        return []
    return [
        f"{sockets} x {cpu.cores_per_socket} cores do not divide by {nodes}; count the nodes that have CPUs (lscpu"
        f" lists the memory of GPUs as nodes without), or write {sockets} where they are uneven"
    ]


def _cloud_rules(profile: Profile, name: str, cloud: CloudMachine) -> list[tuple[str, str]]:
    wrong = []
    if name not in profile.instances:
        wrong.append(("source", f"facts of a machine that instances does not name; add {name} there"))
    if (cloud.fabric is None) != (cloud.fabric_count is None):
        wrong.append(("fabric", "fabric and fabric_count belong together; give both or none"))
    if cloud.fabric_cards is not None and len(cloud.fabric_cards) != cloud.fabric_count:
        wrong.append(
            ("fabric_cards", f"{len(cloud.fabric_cards)} cards, but fabric_count is {cloud.fabric_count}")
        )
    there = profile.at(name)
    if cloud.cpu:
        wrong += [("cpu", text) for text in _numa_rules(there.cpu)]
    if there.accelerators and (cloud.cpu or cloud.numa):
        numa = "numa" if cloud.numa else "cpu"
        wrong += [
            (numa, text) for key, text in _accelerator_rules(there, there.accelerators) if key == "numa"
        ]
    elif cloud.numa:
        wrong.append(("numa", "this machine type has no accelerators"))
    return wrong


def _accelerator_rules(profile: Profile, gpus: Accelerators) -> list[tuple[str, str]]:
    wrong = []
    if gpus.device_files:
        try:
            files = len(device_files(gpus.device_files))
        except ValueError as error:
            wrong.append(("device_files", str(error)))
        else:
            if files != gpus.count:
                wrong.append(("device_files", f"{gpus.device_files} are {files}, but count is {gpus.count}"))
    if gpus.numa is not None and len(gpus.numa) != gpus.count:
        wrong.append(("numa", f"{len(gpus.numa)} entries, but count is {gpus.count}"))
    if gpus.numa is not None and any(node >= profile.cpu.numa_nodes for node in gpus.numa):
        wrong.append(
            ("numa", f"{max(gpus.numa)} is not one of the cpu's {profile.cpu.numa_nodes} NUMA nodes (from 0)")
        )
    if not gpus.peak_tflops.model_fields_set:
        wrong.append(("peak_tflops", "empty; give at least one precision"))
    if gpus.vendor == "nvidia" and gpus.kind == "gpu":
        wrong += [
            (key, "missing; stacks are chosen by it")
            for key in ("compute_capability", "driver")
            if not getattr(gpus, key)
        ]
    return wrong
