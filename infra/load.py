"""From file names to a resolved cluster, or to one message with every mistake that the files contain."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra import hardware, hostlist, yamlfile
from infra.cluster import Cluster, ClusterFile, Pool, PoolFile, User
from infra.errors import Mistake
from infra.hardware import Profile
from infra.machine import Machine, read_machine
from infra.paths import CHECKOUT
from infra.stacks import Stack, choose, read_stacks

# Linux, firmware and the crash kernel keep a part: Slurm refuses a node with less memory than is stated.
USABLE_MEMORY = 0.98
# In the lab, the host and the database, slurmdbd, slurmctld and login containers live beside the nodes.
LAB_HOST_MIB = 3072
LAB_HOST_SHARE = 0.25
_SECTIONS = ("pools", "partitions", "qos", "accounts", "users")


def profile_names(root: Path) -> list[str]:
    """Every machine type below `root`/hardware."""
    return sorted(path.stem for path in (root / "hardware").glob("*.yaml"))


def load_profile(name: str, root: Path = CHECKOUT) -> Profile:
    """The machine type `name`. Raises Mistake."""
    path = root / "hardware" / f"{name}.yaml"
    document = yamlfile.read(path, root)
    profile = yamlfile.validate(document, Profile, document.data)
    for key, text in hardware.rules(profile, path.stem) if profile else []:
        document.wrong(key, text)
    document.check()
    assert profile
    return profile


def load_cluster(path: str | Path, *, root: Path = CHECKOUT, machine: Machine | None = None) -> Cluster:
    """The cluster of file `path`, with profiles and stacks from below `root`.

    `machine` is what a lab is scaled to; the one we run on when it is None. Raises Mistake.
    """
    path = Path(path)
    document = yamlfile.read(path if path.is_absolute() else root / path, root)
    file = _shape(document)
    if file is None:
        document.check()
        raise AssertionError("a file that does not fit the model must have mistakes")
    if file.place == "lab" and machine is None:
        machine = read_machine()
    if file.place != "lab":
        machine = None
    _references(document, file)
    profiles = _profiles(document, file, root)
    nodes = _nodes(document, file)
    stacks = read_stacks(root)
    pools = []
    for name, pool in file.pools.items():
        if name in nodes and pool.hardware in profiles:
            stack = _fit(document, file, name, profiles[pool.hardware], stacks, machine)
            pools.append(_pool(file, name, pool, profiles[pool.hardware], stack, nodes[name], machine))
    if machine:
        _room(document, file, pools, machine)
    users = _users(document, file, machine)
    document.check()
    services = file.services.hardware
    return Cluster(
        document.shown, file, tuple(pools), users, profiles[services] if services else None, machine
    )


def _shape(document: yamlfile.Document) -> ClusterFile | None:
    """The file as a model. Parts that do not fit are noted and left out, so that the rest is checked too."""
    data = document.data
    file = yamlfile.validate(document, ClusterFile, data)
    if file is None:
        scratch = yamlfile.Document(document.path, document.shown)
        pruned = _without_misfits(data)
        file = yamlfile.validate(scratch, ClusterFile, pruned)
    if file and file.name != document.path.stem:
        document.wrong(("name",), f"'{file.name}' is not the file's name; write '{document.path.stem}'")
    return file


def _without_misfits(data: dict[str, Any]) -> dict[str, Any]:
    """`data` without the entries (a pool, an account ...) and top-level keys that contain a mistake."""
    from pydantic import ValidationError

    pruned = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    try:
        ClusterFile.model_validate(data, strict=True)
    except ValidationError as error:
        for problem in error.errors():
            section, *rest = problem["loc"]
            if section in _SECTIONS and rest:
                pruned[str(section)].pop(rest[0], None)
            else:
                pruned.pop(str(section), None)
    return pruned


def _names(document: yamlfile.Document, section: str) -> list[str]:
    """The keys of a section as written: one that has a mistake is still there to be referred to."""
    value = document.data.get(section)
    return [str(key) for key in value] if isinstance(value, dict) else []


def _references(document: yamlfile.Document, file: ClusterFile) -> None:
    """Names that must be defined elsewhere in the file, and definitions that must be used."""

    def known(key: yamlfile.Key, word: str, section: str, what: str) -> None:
        names = _names(document, section)
        if word not in names:
            near = yamlfile.nearest(word, names, all_of=f"In {section}")
            document.wrong(key, f"no {what} '{word}'.{near}")

    for name, pool in file.pools.items():
        known(("pools", name, "partition"), pool.partition, "partitions", "partition")
    for name, account in file.accounts.items():
        for index, qos in enumerate(account.qos):
            known(("accounts", name, "qos", index), qos, "qos", "QOS")
    for name, user in file.users.items():
        for index, account_name in enumerate(user.accounts):
            known(("users", name, "accounts", index), account_name, "accounts", "account")
    for name, qos_file in file.qos.items():
        for index, other in enumerate(qos_file.preempts):
            known(("qos", name, "preempts", index), other, "qos", "QOS")
            if other == name:
                document.wrong(("qos", name, "preempts", index), "a QOS cannot preempt itself")
    raw = document.data.get("pools")
    used = (
        {pool.get("partition") for pool in raw.values() if isinstance(pool, dict)}
        if isinstance(raw, dict)
        else set()
    )
    for name, partition in file.partitions.items():
        if name not in used:
            document.wrong(("partitions", name), "no pool is in it: a partition needs nodes")
        if partition.time_limit_minutes < file.jobs.time_limit_minutes and partition.default:
            asked = file.jobs.time_limit_minutes
            text = f"{partition.time_limit_minutes} is less than jobs.time_limit_minutes, {asked}"
            document.wrong(("partitions", name, "time_limit_minutes"), text)
    defaults = [name for name, partition in file.partitions.items() if partition.default]
    for name in defaults[1:]:
        document.wrong(
            ("partitions", name, "default"), f"'{defaults[0]}' is the default already; there is one"
        )


def _profiles(document: yamlfile.Document, file: ClusterFile, root: Path) -> dict[str, Profile]:
    """The machine types that the file names. Mistakes inside one are those of its own file."""
    wanted: list[tuple[yamlfile.Key, str]] = [
        (("pools", name, "hardware"), p.hardware) for name, p in file.pools.items()
    ]
    if file.services.hardware:
        wanted.append((("services", "hardware"), file.services.hardware))
    elif file.place != "lab":
        document.wrong(("services", "hardware"), f"missing; on {file.place} the services need a machine type")
    names = profile_names(root)
    profiles: dict[str, Profile] = {}
    broken: list[str] = []
    for key, name in wanted:
        if name not in names:
            document.wrong(
                key, f"no machine type '{name}'.{yamlfile.nearest(name, names, all_of='In hardware/')}"
            )
        elif name not in profiles:
            try:
                profiles[name] = load_profile(name, root)
            except Mistake as mistake:
                broken.append(str(mistake))
    if broken:
        try:
            document.check()
        except Mistake as mistake:
            broken.append(str(mistake))
        raise Mistake("\n".join(dict.fromkeys(broken)))
    return profiles


def _nodes(document: yamlfile.Document, file: ClusterFile) -> dict[str, tuple[str, ...]]:
    """The host names of every pool; no two hosts of a cluster share one."""
    services = file.services
    taken = {services.controller: "services.controller", services.accounting: "services.accounting"}
    taken |= {services.database: "services.database"}
    try:
        taken |= dict.fromkeys(hostlist.expand(services.login), "services.login")
    except ValueError as error:
        document.wrong(("services", "login"), str(error))
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


def _fit(
    document: yamlfile.Document,
    file: ClusterFile,
    name: str,
    profile: Profile,
    stacks: list[Stack],
    machine: Machine | None,
) -> Stack | None:
    """The stack of a pool; notes what the schedulers, the place or the stacks cannot do with its hardware."""
    key = ("pools", name, "hardware")
    gpus = profile.accelerators
    place = file.pools[name].place or file.place
    if (place == "lab") != (file.place == "lab"):
        document.wrong(("pools", name, "place"), "the lab is one machine: all pools are in it, or none is")
    if place in ("aws", "gcp") and place not in profile.instances:
        document.wrong(
            key, f"'{profile.name}' has no {place} instance; its clouds: {_or_none(profile.instances)}"
        )
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
    if gpus and gpus.kind == "tpu":
        return None  # TPU jobs bring their own image
    try:
        return choose(profile, stacks, {profile.architecture} | ({machine.arch} if machine else set()))
    except ValueError as error:
        document.wrong(key, f"no software stack runs on '{profile.name}': {error}")
        return None


def _or_none(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _pool(
    file: ClusterFile,
    name: str,
    pool: PoolFile,
    profile: Profile,
    stack: Stack | None,
    nodes: tuple[str, ...],
    machine: Machine | None,
) -> Pool:
    cpu = profile.cpu
    sockets, cores, threads = cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core
    memory = int(profile.memory.capacity_gib * 1024 * USABLE_MEMORY) // 100 * 100
    if machine:
        everywhere = sum(other.count for other in file.pools.values())
        sockets, threads = 1, 1
        cores = pool.lab_cores or min(cpu.threads, max(1, machine.cores // everywhere))
        host = max(LAB_HOST_MIB, int(machine.memory_mib * LAB_HOST_SHARE))
        memory = min(memory, max(0, machine.memory_mib - host) // everywhere // 100 * 100)
    simulated = machine is not None and profile.accelerators is not None
    price = profile.price.usd_per_hour if profile.price else None
    return Pool(
        name=name,
        hardware=profile,
        nodes=nodes,
        partition=pool.partition,
        place=pool.place or file.place,
        simulated=simulated,
        stack=stack,
        sockets=sockets,
        cores_per_socket=cores,
        threads_per_core=threads,
        memory_mib=memory,
        features=_features(profile, pool, simulated),
        weight=pool.weight,
        usd_per_hour=price if pool.usd_per_hour is None else pool.usd_per_hour,
        zone=pool.zone,
    )


def _features(profile: Profile, pool: PoolFile, simulated: bool) -> tuple[str, ...]:
    """What `sbatch --constraint` can ask for: facts of the profile, then what the cluster file adds."""
    features = [profile.name, profile.architecture]
    if profile.accelerators and profile.accelerators.compute_capability:
        features.append(f"cc{profile.accelerators.compute_capability.replace('.', '')}")
    features += sorted({network.kind for network in profile.network if network.use == "fabric"})
    features += ["simulated"] if simulated else []
    return tuple(dict.fromkeys([re.sub(r"[^\w.-]", "-", feature) for feature in [*features, *pool.features]]))


def _room(document: yamlfile.Document, file: ClusterFile, pools: list[Pool], machine: Machine) -> None:
    """Whether this machine has the cores and the memory of all the lab's nodes."""
    cores = sum(pool.cpus * pool.count for pool in pools)
    if cores > machine.cores:
        asking = next((name for name, pool in file.pools.items() if pool.lab_cores), None)
        key = ("pools", asking, "lab_cores") if asking else ("pools", pools[0].name, "count")
        what = " + ".join(f"{pool.count} nodes x {pool.cpus}" for pool in pools)
        document.wrong(key, f"{what} = {cores} cores, but this machine has {machine.cores}")
    for pool in pools:
        if pool.memory_mib < 1024:
            text = f"leaves {pool.memory_mib} MiB of {machine.memory_mib} for each node; 1024 is the least"
            document.wrong(("pools", pool.name, "count"), text)


def _users(document: yamlfile.Document, file: ClusterFile, machine: Machine | None) -> tuple[User, ...]:
    users = []
    person: str | None = None
    uids: dict[int, str] = {}
    for name, user in file.users.items():
        uid, gid = user.uid, user.uid
        if uid is None and machine:
            if person:
                text = f"missing; '{person}' is the person at this machine already"
                document.wrong(("users", name, "uid"), text)
            person = name
            # Root does not submit jobs, and reads what uid 1000 writes. Groups below 1000 are the nodes' own.
            uid = machine.uid or 1000
            gid = machine.gid if machine.gid >= 1000 else uid
        if uid in uids and name not in (person,):
            document.wrong(("users", name, "uid"), f"{uid} is '{uids[uid]}' already")
        if uid is not None:
            uids[uid] = name
        users.append(User(name, tuple(user.accounts), uid, gid))
    return tuple(users)
