"""Slurm's own daemons accept what is rendered: a slurmctld starts with it, and a slurmd's node is IDLE with its GPUs.

Each slurmd sees the sockets, cores, NUMA nodes and device files that the profile states, so that Slurm's own rules
judge them: a GPU whose cores are a part of a socket sets its node to INVAL.
"""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from infra.images import targets
from infra.model import stacks
from infra.model.cluster import Cluster
from infra.model.hardware import Profile
from infra.model.load import load_cluster, load_profile, profile_names
from infra.render import render, write
from tests import strategies
from tests.checkout import checkout, small_cluster
from tests.lab.conftest import Lab

TESTED = {"real": ["Slurm with accounting", "aarch64", "AMD GPU"]}


def machines(cluster: Cluster) -> str:
    """What daemons.sh is to show to a slurmd of the first node of each pool."""
    return "".join(f"{pool.nodes[0]} {pool.name} {topology(pool.hardware)}\n" for pool in cluster.pools)


def topology(profile: Profile) -> str:
    """The machine as hwloc's synthetic description."""
    cpu = profile.cpu
    inside = f"core:{cpu.cores // max(cpu.numa_nodes, cpu.sockets)} pu:{cpu.threads_per_core}"
    if cpu.numa_nodes >= cpu.sockets:
        return f"pack:{cpu.sockets} numa:{cpu.numa_nodes // cpu.sockets} {inside}"
    return f"numa:{cpu.numa_nodes} pack:{cpu.sockets // cpu.numa_nodes} {inside}"


def put(folder: Path, clusters: list[Cluster]) -> None:
    for cluster in clusters:
        place = folder / "build" / cluster.name
        write(render(cluster), place)
        (place / "machines").write_text(machines(cluster))


def run(folder: Path) -> "subprocess.CompletedProcess[str]":
    tags = targets.current(["node"])
    assert tags, "the lab of this test is up, so its image is there"
    mounts = ["--volume", f"{folder / 'build'}:/clusters:ro"]
    mounts += ["--volume", f"{CHECKOUT / 'tests/lab/daemons.sh'}:/daemons.sh:ro"]
    rights = [
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "apparmor=unconfined",
    ]  # each slurmd has mounts of its own
    words = ["docker", "run", "--rm", "--init", "--hostname", "slurmctld", *rights, *mounts, tags["node"]]
    return subprocess.run([*words, "/daemons.sh"], capture_output=True, text=True, check=False)


def start(folder: Path, clusters: list[Cluster]) -> dict[str, dict[str, tuple[str, str, str]]]:
    """State, GRES and reason of every node of these clusters, as their slurmctld says them."""
    done = run(folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found: dict[str, dict[str, tuple[str, str, str]]] = {cluster.name: {} for cluster in clusters}
    for line in done.stdout.splitlines():
        name, node, state, gres, reason = line.split("|")
        found[name][node] = (state, gres, reason)
    return found


def right(clusters: list[Cluster], found: dict[str, dict[str, tuple[str, str, str]]]) -> None:
    """Every node is known; each with a slurmd is idle, with the GPUs of its profile, bound to sockets it has."""
    for cluster in clusters:
        nodes = found[cluster.name]
        assert sorted(nodes) == sorted(cluster.nodes), cluster.name
        for pool in cluster.pools:
            state, gres, reason = nodes[pool.nodes[0]]
            assert (state, reason) == ("idle", "none"), f"{cluster.name}: {pool.hardware.name}: {reason}"
            counts = Counter(
                {item.split(":")[0]: int(item.split("(")[0].rsplit(":", 1)[1]) for item in listed(gres)}
            )
            gpus = pool.hardware.accelerators
            assert counts == ({gpus.kind: gpus.count} if gpus else {}), pool.hardware.name
            bound = gpus and gpus.numa and pool.hardware.cpu.numa_nodes >= pool.hardware.cpu.sockets
            assert ("(S:" in gres) == bool(bound), f"{pool.hardware.name}: {gres}"


def listed(gres: str) -> list[str]:
    return [] if gres == "(null)" else [item for item in gres.split("),") if item]


def every(root: Path, name: str, place: str) -> Cluster:
    """A cluster with one node of every machine type that Slurm can have and `place` has."""
    types = [load_profile(each, root) for each in profile_names(root)]
    types = [each for each in types if each.accelerators is None or each.accelerators.device_files]
    types = [each for each in types if place == "metal" or place in each.instances]
    cluster = small_cluster(
        name=name,
        place=place,
        pools={each.name: {"hardware": each.name, "count": 1, "partition": "gpu"} for each in types},
        services={"hardware": "cloud-services"},
        machines=None if place == "metal" else {"region": "r", "zone": "z", "project": "p"},
    )
    (root / "clusters" / f"{name}.yaml").write_text(json.dumps(cluster))
    return load_cluster(f"clusters/{name}.yaml", root=root)


def with_stacks(folder: Path) -> Path:
    """A checkout in which each shipped machine type has a stack: what runs on it is not asked here."""
    root = checkout(folder)
    link = root / "images"
    there = link.resolve()
    link.unlink()
    (link / "stacks").mkdir(parents=True)
    for stack in (there / "stacks").iterdir():
        (link / "stacks" / stack.name).symlink_to(stack)
    for profile in map(load_profile, profile_names(CHECKOUT)):
        gpus = profile.accelerators
        try:
            stacks.choose(profile, stacks.read_stacks(root), {profile.architecture})
        except ValueError:
            if gpus and gpus.kind == "gpu":
                stack = link / "stacks" / f"for-{profile.name}"
                stack.mkdir()
                (stack / "requirements.lock").write_text("")
                (stack / "stack.yaml").write_text(json.dumps(stack_for(profile, stack.name)))
    return root


def stack_for(profile: Profile, name: str) -> dict[str, Any]:
    gpus = profile.accelerators
    assert gpus
    return {
        "name": name,
        "description": "none at all",
        "python": "3.13",
        "torch": "2.0",
        "accelerator": gpus.vendor,
        "compute_capabilities": [gpus.compute_capability] if gpus.compute_capability else [],
        "architectures": [profile.architecture],
        "source": "this test",
    }


def test_every_shipped_machine_type_is_idle_with_its_gpus(tmp_path: Path, lab: Lab) -> None:
    """Those with more NUMA nodes than sockets beside the others and alone; a cloud's have other cores."""
    root = with_stacks(tmp_path)
    clusters = [every(root, "shipped", "metal"), every(root, "amazon", "aws"), every(root, "google", "gcp")]
    assert {pool.hardware.name for pool in clusters[0].pools} >= {"a100-sxm-8x", "mi300x-8x", "jetson-orin"}
    put(tmp_path, clusters)
    right(clusters, start(tmp_path, clusters))


def randoms(folder: Path, count: int) -> list[Cluster]:
    root = folder
    names = [path.name for path in strategies.write(folder, count, own=True)]
    return [load_cluster(f"clusters/{name}.yaml", root=root) for name in names]


def test_any_valid_cluster_of_any_machine_types_is_idle(tmp_path: Path, lab: Lab) -> None:
    clusters = randoms(tmp_path, 5)
    put(tmp_path, clusters)
    right(clusters, start(tmp_path, clusters))


@pytest.mark.more
def test_many_valid_clusters_of_any_machine_types_are_idle(tmp_path: Path) -> None:
    clusters = randoms(tmp_path, 60)
    put(tmp_path, clusters)
    right(clusters, start(tmp_path, clusters))


def test_the_checks_above_can_fail(tmp_path: Path, lab: Lab) -> None:
    """Cores that are a part of a socket, as they were rendered once; and a key that Slurm does not know."""
    cluster = every(with_stacks(tmp_path), "amazon", "aws")
    put(tmp_path, [cluster])
    gres = tmp_path / "build/amazon/slurm/gres.conf"
    gres.write_text(gres.read_text().replace("Cores=0-47 ", "Cores=0-46 "))
    found = start(tmp_path, [cluster])["amazon"]
    assert found["h100-sxm-8x-1"][0] == "inval" and "socket boundaries" in found["h100-sxm-8x-1"][2]
    assert found["v100-sxm-8x-1"][0] == "idle"
    conf = tmp_path / "build/amazon/slurm/slurm.conf"
    conf.write_text(conf.read_text() + "NoSuchKey=1\n")
    done = run(tmp_path)
    assert done.returncode != 0 and "NoSuchKey" in done.stderr
