"""Rendering: always the same text, right for machines that no one has seen, and nothing lost on the way."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT
from infra.model import hostlist
from infra.model.cluster import Cluster
from infra.model.hardware import device_files
from infra.model.load import load_cluster
from infra.render import render, write
from tests import committed
from tests.checkout import GOLDEN, LAPTOP, checkout, own_hardware, small_cluster
from tests.strategies import clusters, schedulable

TESTED = {"text": ["place lab", "cgroup v2", "Kubernetes", "aarch64", "EFA, InfiniBand, RoCE"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path)


def load(root: Path, data: dict[str, Any]) -> Cluster:
    path = root / "clusters" / f"{data['name']}.yaml"
    path.write_text(json.dumps(data))
    return load_cluster(path, root=root, host=LAPTOP)


# The one with most kinds of files first: the others are told by what they have otherwise.
GOLDEN_CLUSTERS = ("both", "kind", "lab", "mixed", "big", "nvl72")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Every file of each of them, by the name of the cluster."""
    root = checkout(tmp_path_factory.mktemp("golden"))
    for name in GOLDEN_CLUSTERS:
        own = GOLDEN / "clusters" / f"{name}.yaml"
        source = own if own.exists() else CHECKOUT / f"clusters/{name}.yaml"
        (root / "clusters" / f"{name}.yaml").write_text(source.read_text())
    return {
        name: render(load_cluster(f"clusters/{name}.yaml", root=root, host=LAPTOP))
        for name in GOLDEN_CLUSTERS
    }


@pytest.fixture(scope="module")
def golden(rendered: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """What is committed of them."""
    seen = committed.Seen()
    return {
        name: seen.fold(name, files, (f"clusters/{name}.yaml", "clusters/CLUSTER.yaml"))
        for name, files in rendered.items()
    }


@pytest.mark.parametrize("name", GOLDEN_CLUSTERS)
def test_rendered_text_is_the_committed_text(
    name: str, golden: dict[str, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    committed.compare(GOLDEN / name, golden[name], request)


@pytest.mark.parametrize("name", GOLDEN_CLUSTERS)
def test_every_file_says_from_what_and_by_which_command(
    name: str, rendered: dict[str, dict[str, str]]
) -> None:
    for path, text in rendered[name].items():
        if not path.endswith(".json") and not path.startswith("kubernetes/jobs/"):
            wanted = f"# Rendered from clusters/{name}.yaml by: python -m infra render clusters/{name}.yaml"
            assert wanted in text.splitlines()[:4], path


# A machine type that no one has seen: every fact differs from those of the shipped ones.
UNSEEN = {
    "name": "quokka-3x",
    "description": "A machine from a vendor that does not exist",
    "vendor": "Marsupial",
    "model": "Quokka",
    "architecture": "aarch64",
    "sources": {"sheet": "Quokka datasheet, https://quokka.example/sheet"},
    "cpu": {
        "model": "Hop-1",
        "sockets": 1,
        "cores_per_socket": 30,
        "threads_per_core": 4,
        "numa_nodes": 3,
        "source": "sheet",
    },
    "memory": {"capacity_gib": 100, "source": "sheet"},
    "accelerators": {
        "kind": "fpga",
        "vendor": "marsupial",
        "model": "Pouch",
        "gres": "pouch",
        "count": 3,
        "memory_gib": 7,
        "memory_bandwidth_gb_per_s": 11,
        "peak_tflops": {"int8": 13},
        "device_files": "/dev/pouch[4-6]",
        "numa": [2, 0, 1],
        "kubernetes_resource": "marsupial.example/pouch",
        "source": "sheet",
    },
    "network": [{"kind": "roce", "use": "fabric", "count": 2, "bandwidth_gbps": 123, "source": "sheet"}],
    "fabric": {"nodes_per_leaf": 2, "source": "sheet"},
    "power": {"idle_w": 17, "maximum_w": 170, "source": "sheet"},
    "not_applicable": {"accelerators": "no driver of theirs tells anything"},
}


def test_a_new_machine_type_is_one_file(root: Path) -> None:
    (own_hardware(root) / "quokka-3x.yaml").write_text(json.dumps(UNSEEN))
    pools = {"hop": {"hardware": "quokka-3x", "count": 5, "partition": "hop"}}
    files = render(
        load(
            root,
            small_cluster(
                pools=pools, partitions={"hop": {"default": True}}, schedulers=["slurm", "kubernetes"]
            ),
        )
    )

    slurm = files["slurm/slurm.conf"]
    # 97 % of 100 GiB, less one; and three sockets, since no device may have the cores of a part of one
    assert "SlurmdParameters=numa_node_as_socket\n" in slurm
    assert (
        "NodeName=hop-[1-5] CPUs=120 Sockets=3 CoresPerSocket=10 ThreadsPerCore=4 RealMemory=98300"
        " Gres=fpga:pouch:3 Weight=1 Feature=quokka-3x,aarch64,roce\n" in slurm
    )
    assert "GresTypes=fpga\n" in slurm
    assert "AccountingStorageTRES=gres/fpga,gres/fpga:pouch\n" in slurm
    assert "TopologyPlugin=topology/tree\n" in slurm
    gres = [line.split() for line in files["slurm/gres.conf"].splitlines() if line.startswith("NodeName")]
    assert [line[3:] for line in gres] == [
        ["File=/dev/pouch4", "Cores=20-29"],
        ["File=/dev/pouch5", "Cores=0-9"],
        ["File=/dev/pouch6", "Cores=10-19"],
    ]
    assert "SwitchName=leaf-hop-3 Nodes=hop-5\n" in files["slurm/topology.conf"]
    node = json.loads(files["nodes/hop.json"])
    assert node["gpus"]["device_files"] == ["/dev/pouch4", "/dev/pouch5", "/dev/pouch6"]
    assert (node["cpus"], node["memory_mib"], node["simulated"]) == (120, 98_300, False)
    [pool] = list(YAML(typ="safe").load_all(files["kubernetes/nodes.yaml"]))
    assert pool["capacity"] == {"marsupial.example/pouch": "3"}
    assert pool["taints"][0]["key"] == "marsupial.example/pouch"
    groups = YAML(typ="safe").load(files["ansible/inventory.yaml"])["all"]["children"]
    assert groups["fpga"]["children"] == {"pool_hop": None}
    assert "compose.yaml" not in files


def test_the_unseen_machine_is_simulated_in_a_lab(root: Path) -> None:
    (own_hardware(root) / "quokka-3x.yaml").write_text(json.dumps(UNSEEN))
    pools = {"hop": {"hardware": "quokka-3x", "count": 2, "partition": "hop"}}
    cluster = load(root, small_cluster(pools=pools, partitions={"hop": {}}, place="lab", services=None))
    files = render(cluster)
    assert "c /dev/pouch4 0666 root root - 195:0\n" in files["nodes/hop.tmpfiles"]
    assert "File=/dev/pouch[4-6]\n" in files["slurm/gres.conf"]
    assert "simulated" in files["slurm/slurm.conf"]
    assert "compose.yaml" in files


def by_ansible(hosts: Iterable[str]) -> list[str]:
    """Host patterns of an inventory as Ansible itself reads them."""
    from ansible.plugins.inventory import detect_range, expand_hostname_range

    return [
        name for host in hosts for name in (expand_hostname_range(host) if detect_range(host) else [host])
    ]


@pytest.mark.parametrize("first", ["0", "1", "01", "08", "098", "007"])
@pytest.mark.parametrize("count", [1, 2, 9, 95, 1003])
def test_ansible_reads_any_range_of_hosts(first: str, count: int, root: Path) -> None:
    last = f"{int(first) + count - 1:0{len(first)}d}"
    pools = {
        "a": {"hardware": "cpu-epyc-2s", "count": count, "partition": "gpu", "nodes": f"a-[{first}-{last}]"}
    }
    cluster = load(root, small_cluster(pools=pools))
    groups = YAML(typ="safe").load(render(cluster)["ansible/inventory.yaml"])["all"]["children"]
    assert by_ansible(groups["pool_a"]["hosts"]) == cluster.nodes


def gres_of(files: dict[str, str]) -> list[dict[str, str]]:
    lines = re.findall(r"^NodeName=.*$", files["slurm/gres.conf"], re.M)
    return [dict(cell.split("=", 1) for cell in line.split()) for line in lines]


@given(
    sockets=st.sampled_from([1, 2, 4]),
    numa=st.sampled_from([1, 2, 4, 8]),
    per_numa=st.integers(1, 24),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_cores_of_a_gpu_are_whole_sockets_of_slurm(
    sockets: int, numa: int, per_numa: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Else slurmctld sets the node to INVAL; tests/lab/test_daemons.py asks it."""
    root = checkout(tmp_path_factory.mktemp("numa"))
    cores = per_numa * max(numa, sockets) // sockets
    cpu = {**UNSEEN["cpu"], "sockets": sockets, "cores_per_socket": cores, "numa_nodes": numa}  # type: ignore[dict-item]
    hangs = data.draw(st.lists(st.integers(0, numa - 1), min_size=3, max_size=3))
    gpus = {**UNSEEN["accelerators"], "numa": hangs}  # type: ignore[dict-item]
    (own_hardware(root) / "quokka-3x.yaml").write_text(
        json.dumps({**UNSEEN, "cpu": cpu, "accelerators": gpus})
    )
    pools = {"hop": {"hardware": "quokka-3x", "count": 1, "partition": "gpu"}}
    files = render(load(root, small_cluster(pools=pools)))
    node = nodes_of(files["slurm/slurm.conf"])["hop-1"]
    wide = int(node["CoresPerSocket"])
    assert int(node["Sockets"]) * wide == sockets * cores
    for row in gres_of(files):
        if "Cores" in row:
            first, last = map(int, row["Cores"].split("-"))
            assert first % wide == 0 and last == first + wide - 1 < sockets * cores
        else:
            assert numa < sockets, "a device that hangs on one socket has its cores"


def nodes_of(slurm_conf: str) -> dict[str, dict[str, str]]:
    """Every node in the text of a slurm.conf, with its line's settings."""
    found: dict[str, dict[str, str]] = {}
    for line in re.findall(r"^NodeName=.*$", slurm_conf, re.M):
        values = dict(cell.split("=", 1) for cell in line.split())
        found |= dict.fromkeys(hostlist.expand(values["NodeName"]), values)
    return found


@settings(max_examples=25, deadline=None)
@given(data=clusters(schedulable()))
def test_nodes_and_gpus_in_are_nodes_and_gpus_out(
    data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = load(checkout(tmp_path_factory.mktemp("random")), data)
    files = render(cluster)
    wanted = {node: pool for pool in cluster.pools for node in pool.nodes}
    assert len(wanted) == sum(pool["count"] for pool in data["pools"].values())

    nodes = nodes_of(files["slurm/slurm.conf"])
    assert sorted(nodes) == sorted(wanted)
    devices = dict.fromkeys(wanted, 0)
    for line in re.findall(r"^NodeName=.*$", files["slurm/gres.conf"], re.M):
        values = dict(cell.split("=", 1) for cell in line.split())
        for node in hostlist.expand(values["NodeName"]):
            devices[node] += len(device_files(values["File"]))
    for node, pool in wanted.items():
        stated = nodes[node].get("Gres", "gpu:none:0").split(":")[-1]
        assert int(stated) == devices[node] == pool.hardware.gpus
        assert int(nodes[node]["CPUs"]) == pool.hardware.cpu.threads

    partitions = re.findall(r"^PartitionName=\S+\s+Nodes=(\S+)", files["slurm/slurm.conf"], re.M)
    assert sorted(hostlist.expand(",".join(partitions))) == sorted(wanted)
    if "slurm/topology.conf" in files:
        leaves = re.findall(r" Nodes=(\S+)", files["slurm/topology.conf"])
        assert sorted(hostlist.expand(",".join(leaves))) == sorted(wanted)
    inventory = YAML(typ="safe").load(files["ansible/inventory.yaml"])["all"]["children"]
    hosts = [host for name, group in inventory.items() if name.startswith("pool_") for host in group["hosts"]]
    assert sorted(by_ansible(hosts)) == sorted(wanted)


@pytest.mark.parametrize(("count", "plugin"), [(2, "default"), (32, "default"), (33, "tree")])
def test_one_leaf_switch_is_no_tree(count: int, plugin: str, root: Path) -> None:
    """Programs of libslurm do not start with topology/tree (undefined symbol topo_conf; Slurm 24.11)."""
    pools = {"gpu": {"hardware": "h100-sxm-8x", "count": count, "partition": "gpu"}}
    files = render(load(root, small_cluster(pools=pools)))
    assert f"TopologyPlugin=topology/{plugin}\n" in files["slurm/slurm.conf"]
    assert ("slurm/topology.conf" in files) == (plugin == "tree")
    asked = render(load(root, small_cluster(pools=pools, fabric={"topology": "tree"})))
    assert "TopologyPlugin=topology/tree\n" in asked["slurm/slurm.conf"]


def test_spank_plugins_of_the_site_are_lines_of_plugstack(root: Path) -> None:
    """Nodes get that file from slurmctld, which sends no others: an include of a folder would be skipped."""
    line = "optional /usr/lib/slurm/mine.so limit=3"
    text = render(load(root, small_cluster(software={"spank": [line]})))["slurm/plugstack.conf"]
    assert [each for each in text.splitlines() if not each.startswith("#")] == [line]
    assert "include" not in render(load(root, small_cluster()))["slurm/plugstack.conf"]


def test_the_lab_leaves_room_for_the_host(root: Path) -> None:
    (root / "clusters/lab.yaml").write_text((CHECKOUT / "clusters/lab.yaml").read_text())
    cluster = load_cluster("clusters/lab.yaml", root=root, host=LAPTOP)
    [pool] = cluster.pools
    assert pool.simulated and pool.cpus == 4
    assert LAPTOP.memory_mib - pool.memory_mib * pool.count >= LAPTOP.memory_mib // 4


def test_writing_again_changes_nothing_and_removes_what_went(root: Path) -> None:
    files = render(load(root, small_cluster()))
    folder = root / "build"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "munge.key").write_text("kept")
    assert sorted(write(files, folder)) == sorted(files)
    assert write(files, folder) == []
    gone = files.pop("slurm/plugstack.conf")
    assert gone and write(files, folder) == ["slurm/plugstack.conf"]
    assert not (folder / "slurm/plugstack.conf").exists()
    assert (folder / "secrets" / "munge.key").read_text() == "kept"


def test_what_cgroup_v1_cannot_do_is_stated(root: Path) -> None:
    (root / "clusters/lab.yaml").write_text((CHECKOUT / "clusters/lab.yaml").read_text())
    old = replace(LAPTOP, cgroup=1, energy=True)
    files = render(load_cluster("clusters/lab.yaml", root=root, host=old))
    assert "CgroupPlugin=disabled\n" in files["slurm/cgroup.conf"]
    slurm = files["slurm/slurm.conf"]
    assert (
        "JobAcctGatherParams=OverMemoryKill,UsePss\n" in slurm
    )  # forked readers share their parent's memory
    assert "ProctrackType=proctrack/linuxproc\n" in slurm and "jobacct_gather/linux\n" in slurm
    assert "AcctGatherEnergyType=acct_gather_energy/rapl\n" in slurm
    assert "# This host has cgroup v1" in slurm
