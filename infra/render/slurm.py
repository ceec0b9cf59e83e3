"""Slurm's configuration: slurm, gres, cgroup, topology and slurmdbd.conf, and the accounts."""

import shlex
from itertools import groupby

from infra.model.cluster import Cluster, Pool
from infra.model.hardware import Accelerators, device_files
from infra.model.ports import SRUN_PORTS
from infra.model.slurmrelease import newer, release
from infra.render import topology
from infra.render.text import columns, fill, minutes, settings

# Which variables tell a job its devices; without a flag Slurm sets those of all vendors.
ENVIRONMENTS = {"nvidia": "nvidia_gpu_env", "amd": "amd_gpu_env", "intel": "oneapi_gpu_env"}


def render(cluster: Cluster) -> dict[str, str]:
    """Every file of Slurm below slurm/."""
    lab = cluster.host
    cgroups = lab is None or lab.cgroup == 2
    plugin, about, switches = topology.render(cluster)
    files = {
        "slurm.conf": fill(
            "slurm.conf",
            cluster,
            lab=lab is not None,
            cgroups=cgroups,
            energy=lab is not None and lab.energy,
            tres=_tres(cluster),
            gres_types=_gres_types(cluster),
            topology=plugin,
            srun_ports=SRUN_PORTS,
            # a setting of newer releases, whose default of 60 s they refuse beside a shorter interval
            health_timeout=lab is not None and newer(release(cluster), "24.11"),
            simulated=any(pool.simulated for pool in cluster.pools),
            by_numa=by_numa(cluster),
            nodes=columns(_node(pool, *_sockets(cluster, pool)) for pool in cluster.pools),
            partitions=columns(_partitions(cluster)),
        ),
        "gres.conf": fill(
            "gres.conf",
            cluster,
            simulated=any(pool.simulated for pool in cluster.pools),
            lines=columns(row for pool in cluster.pools for row in _gres(pool, _sockets(cluster, pool))),
        ),
        "cgroup.conf": fill("cgroup.conf", cluster, cgroups=cgroups, lab=lab),
        "plugstack.conf": fill("plugstack.conf", cluster),
        "slurmdbd.conf": fill("slurmdbd.conf", cluster),
        "accounts": fill(
            "accounts", cluster, qos=_qos(cluster), accounts=_accounts(cluster), users=_users(cluster)
        ),
    }
    if plugin != "default":
        files["topology.conf"] = fill("topology.conf", cluster, about=about, lines=switches)
    return {f"slurm/{name}": text for name, text in files.items()}


def _accelerated(cluster: Cluster) -> list[tuple[Pool, Accelerators]]:
    return [(pool, pool.hardware.accelerators) for pool in cluster.pools if pool.hardware.accelerators]


def _gres_types(cluster: Cluster) -> list[str]:
    return sorted({gpus.kind for _, gpus in _accelerated(cluster)})


def _tres(cluster: Cluster) -> list[str]:
    """What is counted beside CPUs, memory and nodes: gres/gpu and each of its types."""
    names = {f"gres/{gpus.kind}" for _, gpus in _accelerated(cluster)}
    return sorted(names | {f"gres/{gpus.kind}:{gpus.gres}" for _, gpus in _accelerated(cluster)})


def by_numa(cluster: Cluster) -> bool:
    """Whether Slurm is to take a NUMA node for a socket: it refuses a GPU whose cores are a part of a socket."""
    return any(
        gpus.numa and not pool.simulated and pool.hardware.cpu.numa_nodes > pool.hardware.cpu.sockets
        for pool, gpus in _accelerated(cluster)
    )


def _sockets(cluster: Cluster, pool: Pool) -> tuple[int, int]:
    """Sockets of a node, and cores of each, as Slurm takes them on every node of this cluster."""
    cpu = pool.hardware.cpu
    if by_numa(cluster):
        return cpu.numa_nodes, cpu.cores // cpu.numa_nodes
    return pool.sockets, pool.cores_per_socket


def _node(pool: Pool, sockets: int, cores: int) -> list[str]:
    gpus = pool.hardware.accelerators
    return settings(
        {
            "NodeName": pool.hosts,
            "CPUs": pool.cpus,
            "Sockets": sockets,
            "CoresPerSocket": cores,
            "ThreadsPerCore": pool.threads_per_core,
            "RealMemory": pool.memory_mib,
            "Gres": f"{gpus.kind}:{gpus.gres}:{gpus.count}" if gpus else None,
            "Weight": pool.weight,
            "Feature": ",".join(pool.features),
        }
    )


def _partitions(cluster: Cluster) -> list[list[str]]:
    rows = []
    for name, partition in cluster.spec.partitions.items():
        pools = [pool for pool in cluster.pools if pool.partition == name]
        per_gpu = min((pool.cpus // pool.gpus for pool in pools if pool.gpus), default=0)
        limit = partition.time_limit_minutes
        shared = partition.jobs_per_core
        rows.append(
            settings(
                {
                    "PartitionName": name,
                    "Nodes": ",".join(pool.hosts for pool in pools),
                    "Default": "YES" if partition.default else "NO",
                    "MaxTime": minutes(limit),
                    "DefaultTime": minutes(min(limit, cluster.spec.jobs.time_limit_minutes)),
                    # A job that asks for no memory gets what belongs to its CPUs, so that neighbours fit.
                    "DefMemPerCPU": min(pool.memory_mib // pool.cpus for pool in pools),
                    "DefCpuPerGPU": per_gpu or None,
                    "PriorityTier": partition.priority_tier,
                    "OverSubscribe": f"YES:{shared}" if shared > 1 else None,
                }
            )
        )
    return rows


def _gres(pool: Pool, sockets: tuple[int, int]) -> list[list[str]]:
    """One line for each run of devices on the same socket, with its cores where they are real: whole sockets."""
    gpus = pool.hardware.accelerators
    if gpus is None or gpus.device_files is None:
        return []
    files = device_files(gpus.device_files)
    count, cores = sockets
    places: list[int | None] = [None] * len(files)
    if gpus.numa and not pool.simulated and pool.hardware.cpu.numa_nodes >= count:
        places = [node * count // pool.hardware.cpu.numa_nodes for node in gpus.numa]
    rows = []
    for place, group in groupby(zip(places, files, strict=True), key=lambda pair: pair[0]):
        rows.append(
            settings(
                {
                    "NodeName": pool.hosts,
                    "Name": gpus.kind,
                    "Type": gpus.gres,
                    "File": _range([path for _, path in group]),
                    "Cores": None if place is None else f"{place * cores}-{(place + 1) * cores - 1}",
                    "Flags": ENVIRONMENTS.get(gpus.vendor) if gpus.kind == "gpu" else None,
                }
            )
        )
    return rows


def _range(files: list[str]) -> str:
    """Paths that end in successive numbers, as Slurm writes them: /dev/nvidia[0-7]."""
    if len(files) == 1:
        return files[0]
    stem = files[0].rstrip("0123456789")
    return f"{stem}[{files[0][len(stem) :]}-{files[-1][len(stem) :]}]"


def _limit(value: object) -> object:
    """-1 is how sacctmgr takes a limit away that an earlier run had set."""
    return -1 if value is None else value


def _qos(cluster: Cluster) -> list[str]:
    gpu = bool(_accelerated(cluster))
    rows = []
    for name, qos in cluster.spec.qos.items():
        values: dict[str, object] = {
            "priority": qos.priority,
            "flags": "DenyOnLimit",
            "preempt": f"'{','.join(qos.preempts)}'",
            "gracetime": qos.grace_s,
        }
        if gpu:
            values["maxtresperjob"] = f"gres/gpu={_limit(qos.max_gpus_per_job)}"
            values["maxtresperuser"] = f"gres/gpu={_limit(qos.max_gpus_per_user)}"
        values["maxjobsperuser"] = _limit(qos.max_jobs_per_user)
        values["maxsubmitjobsperuser"] = _limit(qos.max_submitted_per_user)
        values["maxwall"] = -1 if qos.time_limit_minutes is None else minutes(qos.time_limit_minutes)
        rows.append(["modify", "qos", name, "set", *settings(values)])
    return [*(f"add qos {name}" for name in cluster.spec.qos), *columns(rows)]


def _accounts(cluster: Cluster) -> list[str]:
    rows = []
    for name, account in cluster.accounts.items():
        tres = f"node={_limit(account.max_nodes)}"
        if _accelerated(cluster):
            tres += f",gres/gpu={_limit(account.max_gpus)}"
        values = {
            "fairshare": account.fairshare,
            "qos": ",".join(account.qos),
            "defaultqos": account.qos[0],
            "grptres": tres,
            "grpjobs": _limit(account.max_jobs),
            "grpsubmitjobs": _limit(account.max_submitted),
        }
        where = [f"name={name}", f"cluster={cluster.name}"]
        rows.append(["modify", "account", *where, "set", *settings(values)])
    adds = [
        ["add", "account", name, f"description={shlex.quote(account.description)}"]
        for name, account in cluster.accounts.items()
    ]
    return [*columns(adds), *columns(rows)]


def _users(cluster: Cluster) -> list[str]:
    adds, sets = [], []
    for user in cluster.users:
        adds.append(["add", "user", user.name, f"account={','.join(user.accounts)}"])
        sets.append(["modify", "user", user.name, "set", f"defaultaccount={user.accounts[0]}"])
    return [*columns(adds), *columns(sets)]
