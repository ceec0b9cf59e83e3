"""Random clusters that are right: strategies of hypothesis, and `write` for tests that feed them to Slurm."""

import json
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from infra.base.paths import CHECKOUT
from infra.model.hardware import Profile
from infra.model.load import load_cluster, load_profile, profile_names
from infra.model.stacks import choose, read_stacks
from infra.render import render
from infra.render import write as write_files
from tests.checkout import GOLDEN, checkout, own_hardware

# System users, hosts of services, and words of Slurm's own.
RESERVED = {"root", "slurm", "munge", "nobody", "default", "all", "db", "login", "slurmctld", "slurmdbd"}
labels = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True).filter(lambda word: word not in RESERVED)

# One line as people write it, with signs that end something in some language.
SIGNS = "aZ0 \t'\"`$%&|{}[]()<>#!@*?:;,.=~^\\/-_+äß€😀"
lines = st.text(SIGNS, min_size=1, max_size=30).filter(lambda line: not line[0].isspace())


def schedulable() -> list[str]:
    """The machine types that a Slurm pool can have: a stack runs on them, Slurm can bind their devices."""
    stacks = read_stacks(GOLDEN)
    return [name for name in profile_names(CHECKOUT) if _fits(load_profile(name), stacks)]


def _fits(profile: Profile, stacks: Any) -> bool:
    try:
        choose(profile, stacks, {profile.architecture})
    except ValueError:
        return False
    return profile.accelerators is None or profile.accelerators.device_files is not None


@st.composite
def clusters(draw: st.DrawFn, types: list[str]) -> dict[str, Any]:
    """A cluster file as data: some pools, partitions, QOS with preemption, accounts with limits, users."""
    partitions = draw(st.lists(labels, min_size=1, max_size=3, unique=True))
    pools = draw(st.lists(labels, min_size=len(partitions), max_size=4, unique=True))
    limit = st.none() | st.integers(1, 1000)
    qos = draw(st.lists(labels, min_size=1, max_size=3, unique=True))
    accounts = draw(st.lists(labels, min_size=1, max_size=3, unique=True))
    users = draw(st.lists(labels, min_size=1, max_size=3, unique=True))
    return {
        "name": draw(labels),
        "description": draw(st.from_regex(r"[A-Za-z][A-Za-z0-9 ':,.%$#-]{0,40}", fullmatch=True)),
        "place": "metal",
        "schedulers": draw(st.sampled_from([["slurm"], ["slurm", "kubernetes"]])),
        "services": {"hardware": "cpu-epyc-2s"},
        "fabric": _some(
            topology=draw(st.sampled_from([None, "flat", "tree", "block"])),
            nodes_per_leaf=draw(st.none() | st.integers(1, 40)),
            leaves_per_spine=draw(st.none() | st.integers(1, 8)),
        ),
        "pools": {
            name: {
                "hardware": draw(st.sampled_from(types)),
                "count": draw(st.integers(1, 300)),
                # Every partition has a pool: the first pools take one each.
                "partition": partitions[i] if i < len(partitions) else draw(st.sampled_from(partitions)),
                "weight": draw(st.integers(1, 50)),
            }
            for i, name in enumerate(pools)
        },
        "partitions": {
            name: {"default": i == 0, "time_limit_minutes": draw(st.integers(60, 20_000))}
            for i, name in enumerate(partitions)
        },
        "qos": {
            name: _some(
                priority=draw(st.integers(0, 10_000)),
                preempts=qos[:i],
                grace_s=draw(st.integers(0, 600)),
                max_gpus_per_job=draw(limit),
                max_jobs_per_user=draw(limit),
                time_limit_minutes=draw(limit),
            )
            for i, name in enumerate(qos)
        },
        "accounts": {
            name: _some(
                description=f"Account {name}",
                qos=draw(st.lists(st.sampled_from(qos), min_size=1, unique=True)),
                max_nodes=draw(limit),
                max_gpus=draw(limit),
                max_jobs=draw(limit),
            )
            for name in accounts
        },
        "users": {
            name: {
                "accounts": draw(st.lists(st.sampled_from(accounts), min_size=1, unique=True)),
                "uid": 2000 + i,
            }
            for i, name in enumerate(users)
        },
    }


@st.composite
def machine_types(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A machine type as data: sockets, NUMA nodes and devices as no shipped one has them."""
    sockets = draw(st.sampled_from([1, 2, 4, 8]))
    numa = draw(
        st.sampled_from([n for n in (1, 2, 3, 4, 6, 8, 12, 16) if n % sockets == 0 or sockets % n == 0])
    )
    cores = draw(st.integers(1, 12)) * max(1, numa // sockets)
    return {
        "name": name,
        "description": "A machine that no one has seen",
        "vendor": "Marsupial",
        "model": name,
        "architecture": draw(st.sampled_from(["x86_64", "aarch64"])),
        "sources": {"sheet": "A datasheet, https://marsupial.example/sheet"},
        "cpu": {
            "model": "Hop",
            "sockets": sockets,
            "cores_per_socket": cores,
            "threads_per_core": draw(st.sampled_from([1, 2, 4])),
            "numa_nodes": numa,
            "source": "sheet",
        },
        "memory": {"capacity_gib": draw(st.integers(2, 4096)), "source": "sheet"},
        **(draw(_accelerators(numa)) if draw(st.booleans()) else {}),
        "network": [{"kind": "roce", "use": "fabric", "count": 1, "bandwidth_gbps": 100, "source": "sheet"}],
        "power": {"idle_w": 1, "maximum_w": 2, "source": "sheet"},
    }


@st.composite
def _accelerators(draw: st.DrawFn, numa: int) -> dict[str, Any]:
    gpu, count, first = draw(st.booleans()), draw(st.integers(1, 16)), draw(st.integers(0, 200))
    word = draw(labels)
    files = f"/dev/{word}/device[{first}-{first + count - 1}]" if count > 1 else f"/dev/{word}/device"
    accelerators = {
        "kind": "gpu" if gpu else "fpga",
        "vendor": "nvidia" if gpu else "marsupial",
        "model": "Pouch",
        "gres": draw(labels),
        "count": count,
        "memory_gib": 1,
        "memory_bandwidth_gb_per_s": 1,
        "peak_tflops": {"fp32": 1},
        "device_files": files,
        "source": "sheet",
        **_some(
            numa=draw(st.none() | st.lists(st.integers(0, numa - 1), min_size=count, max_size=count)),
            compute_capability="9.0" if gpu else None,
            driver="580.95.05" if gpu else None,
        ),
    }
    excused = {} if gpu else {"not_applicable": {"accelerators": "nothing tells"}}
    return {"accelerators": accelerators, **excused}


def _some(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def write(folder: Path, count: int, *, own: bool = False) -> list[Path]:
    """Render `count` random clusters below `folder`, the same ones every time; returns the folder of each.

    With `own` each cluster has up to three machine types of its own, beside those that ship.
    """
    root = checkout(folder)
    found: list[Path] = []
    if own:
        own_hardware(root)

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(draws: st.DataObject) -> None:
        types = schedulable()
        for i in range(draws.draw(st.integers(1, 3)) if own else 0):
            machine = draws.draw(machine_types(f"own{len(found)}-{i}"))
            (root / "hardware" / f"{machine['name']}.yaml").write_text(json.dumps(machine))
            types += [machine["name"]] * 5
        data = draws.draw(clusters(types))
        data["name"] = f"random{len(found)}"
        # JSON is YAML: nothing between the data and the loader can go wrong.
        path = root / "clusters" / f"{data['name']}.yaml"
        path.write_text(json.dumps(data))
        found.append(folder / "build" / data["name"])
        write_files(render(load_cluster(path, root=root)), found[-1])

    one()
    return found


if __name__ == "__main__":
    # python -m tests.strategies FOLDER COUNT
    for rendered in write(Path(sys.argv[1]), int(sys.argv[2])):
        print(rendered)
