"""What must hold between the parts of a cluster file, beyond the shape of each.

References are read from the file as written, so that a part with another mistake is checked as well.
"""

import ipaddress
from collections.abc import Collection, Iterable
from typing import Any

from infra.model import hostlist
from infra.model.cluster import ClusterFile, Pool
from infra.model.hardware import Profile
from infra.model.host import Host
from infra.model.places import PLACES, Place
from infra.model.stacks import Stack, choose
from infra.model.yamlfile import Document, Key, nearest

RESERVED = ("root", "slurm", "munge", "nobody")  # users that the nodes have for themselves
# Words that another program takes for something else than a name, and what it takes them for.
WORDS = {
    ("partitions", "default"): "Slurm reads a partition of that name as settings of those below it",
    ("accounts", "root"): "is above all accounts in Slurm; its limits would be everybody's",
    ("name", "all"): "Slurm reads a cluster of that name as all of them (squeue --clusters=all)",
}
HOST_WORDS = {
    "default": "Slurm reads a node of that name as settings of those below it",
    "all": "Slurm and Ansible read it as all nodes",
    "localhost": "every machine means itself by it",
}

NAMESPACES = ("default", "kubeflow", "kueue-system", "slipway-system", "local-path-storage")
HIGHEST_PRIORITY = (
    1_000_000_000  # above it are those of the cluster's own pods (kubernetes.io, PriorityClass)
)


def section(document: Document, name: str) -> dict[str, Any]:
    """A top-level mapping of the file as written; empty when it is not one."""
    value = document.data.get(name)
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _entries(document: Document, name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(key, item) for key, item in section(document, name).items() if isinstance(item, dict)]


def _words(value: Any) -> list[tuple[int, str]]:
    """The texts in a list, with their places."""
    return (
        [(i, word) for i, word in enumerate(value) if isinstance(word, str)]
        if isinstance(value, list)
        else []
    )


def references(document: Document) -> None:
    """Names that must be defined elsewhere in the file, and definitions that must be used."""

    def known(key: Key, word: str, where: str, what: str) -> None:
        names = section(document, where)
        if word not in names:
            document.wrong(key, f"no {what} '{word}'.{nearest(word, names, all_of=f'In {where}')}")

    slurm = "slurm" in (word for _, word in _words(document.data.get("schedulers")))
    used = set()
    for name, pool in _entries(document, "pools"):
        partition = pool.get("partition")
        if isinstance(partition, str):
            used.add(partition)
            known(("pools", name, "partition"), partition, "partitions", "partition")
        elif partition is None and slurm:
            document.wrong(("pools", name, "partition"), "missing; under Slurm every node is in a partition")
    for name, account in _entries(document, "accounts"):
        for index, word in _words(account.get("qos")):
            known(("accounts", name, "qos", index), word, "qos", "QOS")
    for name, user in _entries(document, "users"):
        for index, word in _words(user.get("accounts")):
            known(("users", name, "accounts", index), word, "accounts", "account")
        if name in RESERVED:
            document.wrong(("users", name), "is a system user of the nodes; take another name")
    for name, qos in _entries(document, "qos"):
        for index, word in _words(qos.get("preempts")):
            known(("qos", name, "preempts", index), word, "qos", "QOS")
            if word == name:
                document.wrong(("qos", name, "preempts", index), "a QOS cannot preempt itself")
    for name in section(document, "partitions"):
        if name not in used:
            document.wrong(("partitions", name), "no pool is in it: a partition needs nodes")
    defaults = [
        name for name, partition in _entries(document, "partitions") if partition.get("default") is True
    ]
    for name in defaults[1:]:
        document.wrong(
            ("partitions", name, "default"), f"'{defaults[0]}' is the default already; there is one"
        )


def words(document: Document) -> None:
    """Names that a program reads otherwise."""
    for (part, word), why in WORDS.items():
        if document.data.get(part) == word:
            document.wrong((part,), f"'{word}': {why}; take another name")
        elif word in section(document, part):
            document.wrong((part, word), f"{why}; take another name")


def ignored(document: Document, file: ClusterFile) -> None:
    """Keys that nothing reads where this cluster is: who wrote one meant something by it."""
    places = [
        PLACES[place] for place in {file.place, *(pool.place or file.place for pool in file.pools.values())}
    ]
    lab = all(facts.lab for facts in places)
    rented, given = any(facts.rented for facts in places), any(facts.given for facts in places)
    unread: list[tuple[bool, str, Collection[str] | None, str]] = [
        (lab, "services", None, "the lab's containers are named slurmctld, slurmdbd, db and login"),
        (lab, "machines", None, "a lab has no machines"),
        (not rented, "machines", ("region", "zone", "project", "system_disk_gib"), "is of clouds"),
        (lab, "storage", ("kind", "source", "path"), "a lab has volumes of its own"),
        (not given, "bmc", None, "is of bare metal"),
        (lab, "software", ("slurm_suite",), "a lab runs the Slurm of its node image"),
    ]
    said = set()
    for _, part, keys, why in [row for row in unread if row[0]]:
        block = getattr(file, part)
        for key, field in type(block).model_fields.items():
            stated = getattr(block, key) != field.get_default(call_default_factory=True)
            if stated and (keys is None or key in keys) and (part, key) not in said:
                said.add((part, key))
                document.wrong((part, key), f"nothing reads it on {file.place}: {why}; leave it out")
    for name, pool in file.pools.items():
        place = pool.place or file.place
        for key in ("spot", "reservation"):
            if getattr(pool, key) and not PLACES[place].rented:
                document.wrong(
                    ("pools", name, key), f"nothing reads it on {place}: is of clouds; leave it out"
                )
        for key in ("lab_cores", "lab_memory_gib"):
            if getattr(pool, key) and not PLACES[place].here:
                text = f"nothing reads it on {place}: a whole machine is a node there; leave it out"
                document.wrong(("pools", name, key), text)


def kubernetes(document: Document, file: ClusterFile) -> None:
    """What Kubernetes asks of names and numbers: an account is a namespace, a QOS is a priority class."""
    if "kubernetes" not in file.schedulers:
        return
    named = [("name", None, file.name)]
    named += [(part, name, name) for part in ("pools", "accounts", "qos") for name in getattr(file, part)]
    for part, key, name in named:
        if name.endswith("-") or "_" in name:  # what our names may and those of RFC 1123 may not
            where = (part,) if key is None else (part, key)
            document.wrong(where, f"'{name}' is no name in Kubernetes: no '_', and no '-' at its end")
    for name in file.accounts:
        if name in NAMESPACES or name.startswith("kube-"):
            document.wrong(("accounts", name), "is a namespace of the cluster's own; take another name")
    for name, qos in file.qos.items():
        if name.startswith("system-"):
            document.wrong(("qos", name), "Kubernetes keeps priority classes of 'system-' for itself")
        if qos.priority > HIGHEST_PRIORITY:
            text = f"{qos.priority} is above {HIGHEST_PRIORITY}, the highest priority of pods"
            document.wrong(("qos", name, "priority"), text)
    if not file.accounts and "accounts" not in document.data:
        document.wrong(
            ("accounts",), "missing; under Kubernetes jobs are submitted to an account's namespace"
        )


def hosts(document: Document, file: ClusterFile) -> dict[str, tuple[str, ...]]:
    """The host names of every pool; no two hosts of a cluster share one."""
    services = file.services
    taken = {services.controller: "services.controller", services.accounting: "services.accounting"}
    taken |= {services.database: "services.database"}
    try:
        taken |= dict.fromkeys(hostlist.expand(services.login), "services.login")
    except ValueError as error:
        document.wrong(("services", "login"), str(error))
    for host, where in taken.items():
        if host in HOST_WORDS:
            document.wrong(tuple(where.split(".")), f"'{host}': {HOST_WORDS[host]}; take another name")
    found: dict[str, tuple[str, ...]] = {}
    for name, pool in file.pools.items():
        key = ("pools", name, "nodes")
        try:
            nodes = hostlist.expand(pool.nodes or f"{name}-[1-{pool.count}]")
        except ValueError as error:
            document.wrong(key, str(error))
            continue
        if len(nodes) != pool.count:
            document.wrong(key, f"{pool.nodes} are {len(nodes)} hosts, but count is {pool.count}")
        for node in [node for node in nodes if node in HOST_WORDS]:
            document.wrong(key, f"'{node}': {HOST_WORDS[node]}; take another name")
        for node in _twice(nodes, taken):
            document.wrong(key, f"host name '{node}' is there twice; first in {taken.get(node, 'this pool')}")
        taken |= dict.fromkeys(nodes, f"pools.{name}")
        found[name] = tuple(nodes)
    return found


def _twice(nodes: list[str], taken: Iterable[str]) -> list[str]:
    """The first host of `nodes` that is there already: one line is enough, also for a thousand of them."""
    seen = set(taken)
    for node in nodes:
        if node in seen:
            return [node]
        seen.add(node)
    return []


def fit(
    document: Document,
    file: ClusterFile,
    name: str,
    profile: Profile,
    stacks: list[Stack],
    host: Host | None,
) -> Stack | None:
    """The stack of a pool; notes what the schedulers, the place or the stacks cannot do with its hardware."""
    key = ("pools", name, "hardware")
    gpus = profile.accelerators
    place = file.pools[name].place or file.place
    for here in {place, file.place}:
        if PLACES[here].here and place != file.place:
            document.wrong(
                ("pools", name, "place"), f"{here} is one machine: all pools are on it, or none is"
            )
    cloud(document, key, place, profile)
    mig(document, file, name, profile)
    if "slurm" in file.schedulers and gpus:
        if gpus.kind == "tpu":
            document.wrong(
                key, f"'{profile.name}' has TPUs, which Slurm cannot schedule; write schedulers: [kubernetes]"
            )
            return None
        if not gpus.device_files:
            document.wrong(
                key, f"'{profile.name}' states no accelerators.device_files, which Slurm binds jobs by"
            )
        if not profile.judged and not PLACES[place].here:
            text = (
                f"no health check knows accelerators of '{gpus.vendor}', so that its nodes would be drained;"
            )
            document.wrong(
                key, f"{text} write why it does not apply in the profile: not_applicable: accelerators"
            )
    if gpus and gpus.kind == "tpu":
        return None  # TPU jobs bring their own image
    try:
        return choose(profile, stacks, {profile.architecture} | ({host.arch} if host else set()))
    except ValueError as error:
        document.wrong(key, f"no software stack runs on '{profile.name}': {error}")
        return None


def mig(document: Document, file: ClusterFile, name: str, profile: Profile) -> None:
    """GPUs are cut by NVIDIA's operator on Kubernetes, into what the profile knows."""
    asked, key = file.pools[name].mig, ("pools", name, "mig")
    if asked is None:
        return
    known = [layout.profile for layout in profile.accelerators.mig] if profile.accelerators else []
    if asked not in known:
        near = nearest(asked, known, all_of=f"Those of '{profile.name}'") if known else ""
        document.wrong(key, f"'{profile.name}' has no MIG layout '{asked}'.{near}")
    if "slurm" in file.schedulers:
        document.wrong(key, "only NVIDIA's operator on Kubernetes cuts GPUs; write schedulers: [kubernetes]")
    if PLACES[file.pools[name].place or file.place].here:
        document.wrong(key, "simulated GPUs cannot be cut; leave it out")


def cloud(document: Document, key: Key, place: Place, profile: Profile) -> None:
    """A machine in a cloud must be one that the cloud rents."""
    if PLACES[place].rented and place not in profile.instances:
        clouds = ", ".join(profile.instances) or "none"
        document.wrong(key, f"'{profile.name}' has no {place} instance; its clouds: {clouds}")


def room(document: Document, file: ClusterFile, pools: list[Pool], host: Host) -> None:
    """Whether this machine has the cores and the memory of all nodes. Those of place docker share cores."""
    cores = sum(pool.cpus * pool.count for pool in pools)
    if cores > host.cores and PLACES[file.place].lab:
        asking = next((name for name, pool in file.pools.items() if pool.lab_cores), None)
        key = ("pools", asking, "lab_cores") if asking else ("pools", pools[0].name, "count")
        what = " + ".join(f"{pool.count} nodes x {pool.cpus}" for pool in pools)
        document.wrong(key, f"{what} = {cores} cores, but this machine has {host.cores}")
    schedulers = len(set(file.schedulers)) if PLACES[file.place].lab else 1  # each has nodes of its own
    memory = sum(pool.memory_mib * pool.count for pool in pools) * schedulers
    if memory > host.memory_mib:
        what = " + ".join(f"{pool.count * schedulers} nodes x {pool.memory_mib}" for pool in pools)
        key = ("pools", pools[0].name, "count")
        document.wrong(key, f"{what} = {memory} MiB, but this machine has {host.memory_mib}")
    for pool in pools:
        if pool.cpus > host.cores:
            text = f"{pool.cpus} cores in one node, but this machine has {host.cores}"
            document.wrong(("pools", pool.name, "lab_cores"), text)
        if pool.memory_mib < 1024:
            text = f"leaves {pool.memory_mib} MiB of {host.memory_mib} for each node; 1024 is the least"
            document.wrong(("pools", pool.name, "count"), text)


def machines(document: Document, file: ClusterFile, nodes: dict[str, tuple[str, ...]]) -> None:
    """What the place needs to make or find every machine of the cluster."""
    wanted = list(dict.fromkeys([*service_hosts(file), *(name for pool in nodes.values() for name in pool)]))
    here = PLACES[file.place]
    for needed in here.needs:
        if getattr(file.machines, needed) is None:
            document.wrong(("machines", needed), f"missing; {file.place} needs it")
    if file.hosts:  # none at all: the site's DNS knows them by their names
        missing = [name for name in wanted if name not in file.hosts]
        if missing:
            document.wrong(("hosts",), f"no address of {', '.join(missing[:4])}{' ...' * (len(missing) > 4)}")
    for name in file.hosts:
        if name not in wanted:
            document.wrong(("hosts", name), f"no machine of this cluster.{nearest(name, wanted)}")
    room = ipaddress.ip_network(file.machines.cidr).num_addresses - 8  # some belong to the network itself
    if here.makes and room < len(wanted):
        document.wrong(("machines", "cidr"), f"has room for {max(0, room)} machines, not {len(wanted)}")
    if file.storage.kind == "lustre" and file.storage.source is None:
        document.wrong(("storage", "source"), "missing; for example mgs.example.org@tcp:/scratch")
    if not here.storage and file.storage.kind == "place":
        document.wrong(("storage", "kind"), "bare metal offers none of its own; write nfs, lustre or none")
    if file.hosts and not here.given:
        document.wrong(("hosts",), f"only metal has machines of its own; {file.place} makes them")
    for key, text in _addresses(file):
        document.wrong(key, text)


def service_hosts(file: ClusterFile) -> list[str]:
    """Every host of a service once; none when the login range is broken, which is told elsewhere."""
    services = file.services
    try:
        login = hostlist.expand(services.login)
    except ValueError:
        login = []
    return list(dict.fromkeys([services.controller, services.accounting, services.database, *login]))


def _addresses(file: ClusterFile) -> list[tuple[Key, str]]:
    seen: dict[str, str] = {}
    wrong: list[tuple[Key, str]] = []
    for name, host in file.hosts.items():
        if host.address in seen:
            wrong.append((("hosts", name, "address"), f"{host.address} is '{seen[host.address]}' already"))
        seen[host.address] = name
    return wrong
