"""What a person gets wrong is told in one line: file, line, key, value and what would be right. Exit code 2."""

# ruff: noqa: E501 - tables with one case a line

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra import cli
from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model.load import load_cluster, read_profile
from tests.checkout import LAPTOP, checkout, own_hardware, small_cluster
from tests.unit.test_render import UNSEEN

TESTED = {"text": ["AMD GPU", "TPU"]}

RIGHT = """\
name: site
description: a test
place: metal
schedulers: [slurm]
services: {hardware: cpu-epyc-2s}
pools:
  gpu:
    hardware: h100-sxm-8x
    count: 2
    nodes: g[1-2]
    partition: gpu
partitions:
  gpu: {default: true}
qos:
  normal: {priority: 1}
accounts:
  research: {description: Research, qos: [normal]}
users:
  ml: {accounts: [research], uid: 2000}
"""

# (what is replaced, by what, the line it is in, the key, the rest)
MISTAKES = {
    "unknown key": ("count: 2", "cuont: 2", [(7, "pools.gpu.count: missing"), (9, "pools.gpu.cuont: unknown key. Did you mean 'count'?")]),
    "wrong type": ("count: 2", "count: two", [(9, "pools.gpu.count: 'two' is not a whole number; the unit is in the key's name")]),
    "number as text": ("count: 2", 'count: "2"', [(9, "pools.gpu.count: '2' is not a whole number; the unit is in the key's name")]),
    "count 0": ("count: 2", "count: 0", [(9, "pools.gpu.count: 0 is not above 0")]),
    "count below 0": ("count: 2", "count: -3", [(9, "pools.gpu.count: -3 is not above 0")]),
    "missing profile": ("h100-sxm-8x", "h100-smx-8x", [(8, "pools.gpu.hardware: no machine type 'h100-smx-8x'. Did you mean 'h100-sxm-8x'?")]),
    "missing service profile": ("{hardware: cpu-epyc-2s}", "{hardware: cpu-epic-2s}", [(5, "services.hardware: no machine type 'cpu-epic-2s'. Did you mean 'cpu-epyc-2s'?")]),
    "duplicate nodes": ("g[1-2]", '"g1,g1"', [(10, "pools.gpu.nodes: host name 'g1' is there twice; first in this pool")]),
    "a node like a service": ("g[1-2]", '"g1,db"', [(10, "pools.gpu.nodes: host name 'db' is there twice; first in services.database")]),
    "nodes and count": ("g[1-2]", "g[1-3]", [(10, "pools.gpu.nodes: g[1-3] are 3 hosts, but count is 2")]),
    "bad host name": ("g[1-2]", "G[1-2]", [(10, "pools.gpu.nodes: 'G1' is no host name: lower-case letters, digits and '-', at most 63")]),
    "partition without nodes": ("default: true}", "default: true}\n  idle: {}", [(14, "partitions.idle: no pool is in it: a partition needs nodes")]),
    "missing partition": ("partition: gpu", "partition: gpus", [(11, "pools.gpu.partition: no partition 'gpus'. Did you mean 'gpu'?"), (13, "partitions.gpu: no pool is in it: a partition needs nodes")]),
    "ROCm": ("h100-sxm-8x", "mi300x-8x", [(8, "pools.gpu.hardware: no software stack runs on 'mi300x-8x': cuda13 drives nvidia devices, not amd")]),
    "old driver": ("h100-sxm-8x", "jetson-orin", [(8, "pools.gpu.hardware: no software stack runs on 'jetson-orin': cuda13 needs driver 580.65.06 or newer; theirs is 540.4.0")]),
    "old GPU": ("h100-sxm-8x", "v100-sxm-8x", [(8, "pools.gpu.hardware: no software stack runs on 'v100-sxm-8x': cuda13 has kernels for compute capability 7.5, 8.0, 8.6, 9.0, 10.0, 12.0, not 7.0")]),
    "TPU under Slurm": ("h100-sxm-8x", "tpu-v5e-8", [(8, "pools.gpu.hardware: 'tpu-v5e-8' has TPUs, which Slurm cannot schedule; write schedulers: [kubernetes]")]),
    "not in this cloud": ("h100-sxm-8x", "l40s-8x\n    place: gcp", [(8, "pools.gpu.hardware: 'l40s-8x' has no gcp instance; its clouds: aws")]),
    "unknown place": ("place: metal", "place: metall", [(3, "place: 'metall' is not one of lab, docker, aws, gcp, metal. Did you mean 'metal'?")]),
    "not the file's name": ("name: site", "name: sight", [(1, "name: 'sight' is not the file's name; write 'site'")]),
    "unknown account": ("accounts: [research]", "accounts: [reseach]", [(19, "users.ml.accounts.0: no account 'reseach'. Did you mean 'research'?")]),
    "unknown QOS": ("qos: [normal]", "qos: [nomal]", [(17, "accounts.research.qos.0: no QOS 'nomal'. Did you mean 'normal'?")]),
    "reserved user": ("ml: {", "slurm: {", [(19, "users.slurm: is a system user of the nodes; take another name")]),
    "a partition that Slurm reads as settings": ("partition: gpu\npartitions:\n  gpu:", "partition: default\npartitions:\n  default:", [(13, "partitions.default: Slurm reads a partition of that name as settings of those below it; take another name")]),
    "the account above all": ("research: {d", "root: {d", [(17, "accounts.root: is above all accounts in Slurm; its limits would be everybody's; take another name"), (19, "users.ml.accounts.0: no account 'research'. In accounts: root.")]),
    "all nodes": ("g[1-2]", "g1,all", [(10, "pools.gpu.nodes: 'all': Slurm and Ansible read it as all nodes; take another name")]),
    "default node": ("g[1-2]", "g1,default", [(10, "pools.gpu.nodes: 'default': Slurm reads a node of that name as settings of those below it; take another name")]),
    "every machine": ("{hardware: cpu-epyc-2s}", "{hardware: cpu-epyc-2s, controller: localhost}", [(5, "services.controller: 'localhost': every machine means itself by it; take another name")]),
    "digits": ("g[1-2]", '"[1-2]"', [(10, "pools.gpu.nodes: '1' is read as a number, and not as a host name; begin it with a letter")]),
    "hexadecimal": ("g[1-2]", "0x[1-2]", [(10, "pools.gpu.nodes: '0x1' is read as a number, and not as a host name; begin it with a letter")]),
    "a lab's cores on metal": ("count: 2", "count: 2\n    lab_cores: 2", [(10, "pools.gpu.lab_cores: nothing reads it on metal: a whole machine is a node there; leave it out")]),
    "spot on metal": ("count: 2", "count: 2\n    spot: true", [(10, "pools.gpu.spot: nothing reads it on metal: is of clouds; leave it out")]),
    "a region on metal": ("users:", "machines: {region: eu-central-1}\nusers:", [(18, "machines.region: nothing reads it on metal: is of clouds; leave it out")]),
    "MIG under Slurm": ("count: 2", "count: 2\n    mig: 1g.10gb", [(10, "pools.gpu.mig: only NVIDIA's operator on Kubernetes cuts GPUs; write schedulers: [kubernetes]")]),
    "no such MIG layout": ("count: 2", "count: 2\n    mig: 1g.11gb", [(10, "pools.gpu.mig: 'h100-sxm-8x' has no MIG layout '1g.11gb'. Did you mean '1g.10gb'?"), (10, "pools.gpu.mig: only NVIDIA's operator on Kubernetes cuts GPUs; write schedulers: [kubernetes]")]),
    "nobody's number": ("uid: 2000", "uid: 65534", [(19, "users.ml.uid: 65534 is no person's (nobody, or not a number at all)")]),
    "key twice": ("count: 2", "count: 2\n    count: 3", [(10, "pools.gpu.count: there twice, first in line 9")]),
    "not YAML": ("gpu: {default", "gpu: {default: [", [(13, "not YAML: expected the node content, but found ':'")]),
    "tab": ("    count: 2", "\tcount: 2", [(9, "not YAML: found character '\\t' that cannot start any token")]),
    "two mistakes": ("count: 2\n    nodes: g[1-2]\n    partition: gpu", "count: 0\n    nodes: g[1-2]\n    partition: cpu", [(9, "pools.gpu.count: 0 is not above 0"), (11, "pools.gpu.partition: no partition 'cpu'. Did you mean 'gpu'?"), (13, "partitions.gpu: no pool is in it: a partition needs nodes")]),
}  # fmt: skip


def test_people_of_a_directory_and_accounts_with_an_underscore(site: Path) -> None:
    """On metal the site's directory knows them: names with dots, numbers above 60000."""
    text = (
        RIGHT.replace("research", "ml_team").replace("ml:", "jane.doe:").replace("uid: 2000", "uid: 1800001")
    )
    site.write_text(text)
    [user] = load_cluster(site, root=site.parent.parent).users
    assert (user.name, user.uid, user.accounts) == ("jane.doe", 1800001, ("ml_team",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"services": {"controller": "head", "login": "login-[1-2]"}},
            ["services.controller", "services.login"],
        ),
        ({"machines": {"cidr": "10.1.0.0/24"}}, ["machines.cidr"]),
        ({"storage": {"path": "/scratch"}}, ["storage.path"]),
        ({"bmc": {"user": "anna"}}, ["bmc.user"]),
        ({"software": {"slurm_suite": "forky"}}, ["software.slurm_suite"]),
        ({"services": {"controller": "slurmctld"}}, []),
    ],
)
def test_what_a_lab_does_not_read_is_refused(changes: dict[str, Any], said: list[str], site: Path) -> None:
    site.write_text(json.dumps(small_cluster(name="site", place="lab", services=None) | changes))
    try:
        load_cluster(site, root=site.parent.parent, host=LAPTOP)
        told = ""
    except Mistake as mistake:
        told = str(mistake)
    assert [line.split(": ")[1] for line in told.splitlines()] == said
    assert all("nothing reads it on lab" in line for line in told.splitlines())


def test_a_lab_has_no_user_that_systemd_cannot_make(site: Path) -> None:
    users = {"jane.doe": {"accounts": ["research"]}}
    site.write_text(json.dumps(small_cluster(name="site", place="lab", services=None, users=users)))
    with pytest.raises(Mistake, match=r"users.jane.doe: has a dot, and systemd-sysusers makes no such user"):
        load_cluster(site, root=site.parent.parent, host=LAPTOP)


def lines_of(path: Path, mistakes: list[tuple[int, str]]) -> str:
    return "".join(f"{path}:{line}: {text}\n" for line, text in mistakes)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose stack never changes, and where the command line looks."""
    root = checkout(tmp_path)
    return root / "clusters" / "site.yaml"


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case: str, site: Path) -> None:
    what, by, mistakes = MISTAKES[case]
    assert what in RIGHT
    site.write_text(RIGHT.replace(what, by, 1))
    with pytest.raises(Mistake) as caught:
        load_cluster(site, root=site.parent.parent, host=LAPTOP)
    assert str(caught.value) + "\n" == lines_of(Path("clusters/site.yaml"), mistakes)


def test_what_is_right_passes(site: Path) -> None:
    site.write_text(RIGHT)
    assert load_cluster(site, root=site.parent.parent).nodes == ["g1", "g2"]


@pytest.mark.parametrize("verb", ["check", "render", "show"])
def test_the_command_line_says_it_and_exits_with_2(
    verb: str, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write_text(RIGHT.replace("h100-sxm-8x", "h100-smx-8x"))
    monkeypatch.setattr(sys, "argv", ["infra", verb, str(site)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert (
        err == f"{site}:8: pools.gpu.hardware: no machine type 'h100-smx-8x'. Did you mean 'h100-sxm-8x'?\n"
    )


def test_a_process_ends_without_a_traceback(site: Path) -> None:
    missing = site.with_name("nowhere.yaml")
    site.write_text(RIGHT)
    done = subprocess.run(
        [sys.executable, "-m", "infra", "render", str(missing)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{missing}: no such file.\n"


def lab(**pool: Any) -> dict[str, Any]:
    pools = {"gpu": {"hardware": "h100-sxm-8x", "count": 2, "partition": "gpu"} | pool}
    return small_cluster(name="site", place="lab", services=None, pools=pools)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (lab(lab_cores=5), "pools.gpu.lab_cores: 2 nodes x 5 = 10 cores, but this machine has 8"),
        (lab(count=9), "pools.gpu.count: 9 nodes x 1 = 9 cores, but this machine has 8"),
        (
            lab(hardware="gb200-nvl72-tray") | {"users": None},
            "users: nothing is not a mapping (`key: value` lines)",
        ),
        (lab() | {"users": {}}, "users: missing; a lab acts as its first user"),
        (
            lab() | {"users": {"a": {"accounts": ["research"]}, "b": {"accounts": ["research"]}}},
            "users.b.uid: missing; 'a' is the person at this machine already",
        ),
        (lab(place="aws"), "pools.gpu.place: lab is one machine: all pools are on it, or none is"),
        (
            lab()
            | {"place": "docker", "services": {"hardware": "lab-cpu"}, "machines": {"cidr": "10.0.0.0/29"}},
            "machines.cidr: has room for 0 machines, not 6",
        ),
        (
            lab(count=9, lab_memory_gib=4) | {"place": "docker", "services": {"hardware": "lab-cpu"}},
            "pools.gpu.count: 9 nodes x 4096 = 36864 MiB, but this machine has 32000",
        ),
        (
            lab()
            | {
                "place": "metal",
                "services": {"hardware": "lab-cpu"},
                "hosts": {"gpu-1": {"address": "10.0.0.1"}},
            },
            "hosts: no address of slurmctld, slurmdbd, db, login ...",
        ),
        (
            lab() | {"place": "metal", "services": {"hardware": "lab-cpu"}, "storage": {"kind": "lustre"}},
            "storage.source: missing; for example mgs.example.org@tcp:/scratch",
        ),
    ],
)
def test_a_lab_must_fit_this_machine(data: dict[str, Any], text: str, site: Path) -> None:
    site.write_text(json.dumps(data))
    with pytest.raises(Mistake) as caught:
        load_cluster(site, root=site.parent.parent, host=LAPTOP)
    assert str(caught.value) == f"clusters/site.yaml:1: {text}"


def changed(path: str, value: Any) -> dict[str, Any]:
    """UNSEEN with one value changed, or taken away when it is None."""
    data: dict[str, Any] = json.loads(json.dumps(UNSEEN))
    *blocks, key = path.split(".")
    inner = data
    for block in blocks:
        inner = inner[block]
    inner.pop(key, None)
    if value is not None:
        inner[key] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("memory.capacity_gb", 128, "memory.capacity_gb: unknown key. Did you mean 'capacity_gib'?"),
        ("memory.capacity_gib", "100 GiB", "memory.capacity_gib: '100 GiB' is not a whole number; the unit is in the key's name"),
        ("memory.source", None, "memory.source: missing"),
        ("memory.source", "shet", "memory.source: 'shet' is not in sources: sheet"),
        ("sources.other", "Another datasheet", "sources.other: no block names it; a source that supports nothing is to go"),
        ("accelerators.compute_capability", 9.0, "accelerators.compute_capability: 9.0 is not text; put it in quotes"),
        ("accelerators.device_files", "/dev/pouch[0-7]", "accelerators.device_files: /dev/pouch[0-7] are 8, but count is 3"),
        ("accelerators.numa", [0, 1, 3], "accelerators.numa: 3 is not one of the cpu's 3 NUMA nodes (from 0)"),
        ("accelerators.kind", "gpuu", "accelerators.kind: 'gpuu' is not one of gpu, tpu, fpga. Did you mean 'gpu'?"),
        ("cpu.numa_nodes", 34, "cpu.numa_nodes: 1 x 30 cores do not divide by 34; count the nodes that have CPUs (lscpu lists the memory of GPUs as nodes without), or write 1 where they are uneven"),
        ("accelerators.gres", "8k", "accelerators.gres: '8k' is read as a count by Slurm; begin it with a letter"),
        ("cloud", {"aws": {"memory_gib": 64, "source": "sheet"}}, "cloud.aws.source: facts of a machine that instances does not name; add aws there"),
        ("power.idle_w", 171, "power.idle_w: 171 is above maximum_w"),
        ("architecture", "arm64", "architecture: 'arm64' is not one of x86_64, aarch64. Did you mean 'aarch64'?"),
        ("name", "koala", "name: 'koala' is not the file's name; write 'quokka-3x'"),
        ("acceptance", {"gemm_tflops": 1}, "acceptance.gemm_tflops: unknown key. Did you mean 'gemm_fp8_tflops'?"),
    ],
)  # fmt: skip
def test_a_machine_type_with_a_mistake(path: str, value: Any, text: str, site: Path) -> None:
    root = site.parent.parent
    file = own_hardware(root) / "quokka-3x.yaml"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(Mistake) as caught:
        read_profile(file, root)
    assert f"hardware/quokka-3x.yaml:1: {text}" in str(caught.value).splitlines()
