"""From file names to a resolved cluster, or to one message with every mistake that the files contain."""

import re
from pathlib import Path
from typing import Any

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model import hardware, rules, yamlfile
from infra.model.cluster import Cluster, ClusterFile, Pool, PoolFile, User
from infra.model.hardware import Profile
from infra.model.host import Host, read_host
from infra.model.places import PLACES
from infra.model.stacks import Stack, read_stacks

# In the lab, the host and the database, slurmdbd, slurmctld and login containers live beside the nodes.
LAB_HOST_MIB = 3072
LAB_HOST_SHARE = 0.25
DOCKER_CORES, DOCKER_MIB = 1, 4096  # a machine of place docker, like a small virtual one
NOBODY = (65534, 65535)
_SECTIONS = ("pools", "partitions", "qos", "accounts", "users")


def profile_names(root: Path) -> list[str]:
    """Every machine type below `root`/hardware."""
    return sorted(path.stem for path in (root / "hardware").glob("*.yaml"))


def load_profile(name: str, root: Path = CHECKOUT) -> Profile:
    """The machine type `name` of `root`/hardware. Raises Mistake."""
    return read_profile(root / "hardware" / f"{name}.yaml", root)


def read_profile(path: Path, root: Path = CHECKOUT) -> Profile:
    """The machine type of file `path`. Raises Mistake."""
    document = yamlfile.read(path, root)
    profile = yamlfile.validate(document, Profile, document.data)
    for key, text in hardware.rules(profile, path.stem) if profile else []:
        document.wrong(key, text)
    document.check()
    assert profile
    return profile


def load_cluster(path: str | Path, *, root: Path = CHECKOUT, host: Host | None = None) -> Cluster:
    """The cluster of file `path`, with profiles and stacks from below `root`.

    `host` is what a lab is scaled to; the one we run on when it is None. Raises Mistake.
    """
    path = Path(path)
    inside = root / path  # an absolute path stays as it is
    document = yamlfile.read(inside if inside.exists() or not path.exists() else path.absolute(), root)
    rules.references(document)
    rules.words(document)
    file = _shape(document)
    if file is None:
        document.check()
        raise AssertionError("a file that does not fit the model must have mistakes")
    if not PLACES[file.place].here:
        host = None
    elif host is None:
        host = read_host()
    profiles = _profiles(document, file, root)
    nodes = rules.hosts(document, file)
    stacks = read_stacks(root)
    pools = []
    for name, pool in file.pools.items():
        if name in nodes and pool.hardware in profiles:
            profile = profiles[pool.hardware].at(pool.place or file.place)
            stack = rules.fit(document, file, name, profile, stacks, host)
            pools.append(_pool(file, name, pool, profile, stack, nodes[name], host))
    if host:
        rules.room(document, file, pools, host)
    rules.machines(document, file, nodes)
    rules.ignored(document, file)
    rules.kubernetes(document, file)
    users = _users(document, file, host)
    services = profiles.get(file.services.hardware or "")
    if services:
        rules.cloud(document, ("services", "hardware"), file.place, services)
        services = services.at(file.place)
    document.check()
    return Cluster(document.shown, file, tuple(pools), users, services, host)


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


def _profiles(document: yamlfile.Document, file: ClusterFile, root: Path) -> dict[str, Profile]:
    """The machine types that the file names. Mistakes inside one are those of its own file."""
    wanted: list[tuple[yamlfile.Key, str]] = [
        (("pools", name, "hardware"), p.hardware) for name, p in file.pools.items()
    ]
    if file.services.hardware:
        wanted.append((("services", "hardware"), file.services.hardware))
    elif not PLACES[file.place].lab and "hardware" not in rules.section(document, "services"):
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


def _pool(
    file: ClusterFile,
    name: str,
    pool: PoolFile,
    profile: Profile,
    stack: Stack | None,
    nodes: tuple[str, ...],
    host: Host | None,
) -> Pool:
    cpu = profile.cpu
    sockets, cores, threads = cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core
    memory = profile.usable_mib
    if host:
        sockets, threads = 1, 1
        fair_cores, fair_mib = _fair_share(file, host)
        cores = pool.lab_cores or min(cpu.threads, fair_cores)
        memory = min(memory, pool.lab_memory_gib * 1024 if pool.lab_memory_gib else fair_mib)
    simulated = host is not None and profile.accelerators is not None
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
        features=_features(profile, pool, simulated, pool.place or file.place),
        weight=pool.weight,
        usd_per_hour=price if pool.usd_per_hour is None else pool.usd_per_hour,
        zone=pool.zone or file.machines.zone,
        mig=pool.mig,
        spot=pool.spot,
        reservation=pool.reservation,
    )


def _fair_share(file: ClusterFile, host: Host) -> tuple[int, int]:
    """Cores and MiB of a node on this machine. On docker they stay when another node comes."""
    if PLACES[file.place].engine:
        return DOCKER_CORES, DOCKER_MIB
    # Each scheduler has nodes of its own: of a pool under both there are two of every name, half as big.
    everywhere = sum(pool.count for pool in file.pools.values()) * len(set(file.schedulers))
    kept = max(LAB_HOST_MIB, int(host.memory_mib * LAB_HOST_SHARE))
    return max(1, host.cores // everywhere), max(0, host.memory_mib - kept) // everywhere // 100 * 100


def _features(profile: Profile, pool: PoolFile, simulated: bool, place: str) -> tuple[str, ...]:
    """What `sbatch --constraint` can ask for: facts of the profile, then what the cluster file adds."""
    features = [profile.name, profile.architecture]
    if profile.accelerators and profile.accelerators.compute_capability:
        features.append(f"cc{profile.accelerators.compute_capability.replace('.', '')}")
    rented = profile.cloud.get(place)  # type: ignore[call-overload]
    if rented and rented.fabric:
        features.append(rented.fabric)
    else:
        features += sorted({network.kind for network in profile.network if network.use == "fabric"})
    features += ["simulated"] if simulated else []
    return tuple(dict.fromkeys([re.sub(r"[^\w.-]", "-", feature) for feature in [*features, *pool.features]]))


def _users(document: yamlfile.Document, file: ClusterFile, host: Host | None) -> tuple[User, ...]:
    if host and document.data.get("users", {}) == {}:
        document.wrong(("users",), "missing; a lab acts as its first user")
    users = []
    person: str | None = None
    uids: dict[int, str] = {}
    for name, user in file.users.items():
        uid, gid = user.uid, user.uid
        if uid is None and host:
            if person:
                text = f"missing; '{person}' is the person at this machine already"
                document.wrong(("users", name, "uid"), text)
            person = name
            # Root does not submit jobs, and reads what uid 1000 writes. Groups below 1000 are the nodes' own.
            uid = host.uid or 1000
            gid = host.gid if host.gid >= 1000 else uid
        if host and "." in name and PLACES[file.place].lab:
            document.wrong(
                ("users", name), "has a dot, and systemd-sysusers makes no such user; write another"
            )
        if uid in NOBODY:
            document.wrong(("users", name, "uid"), f"{uid} is no person's (nobody, or not a number at all)")
        if uid in uids and name not in (person,):
            document.wrong(("users", name, "uid"), f"{uid} is '{uids[uid]}' already")
        if uid is not None:
            uids[uid] = name
        users.append(User(name, tuple(user.accounts), uid, gid, tuple(user.keys)))
    return tuple(users)
