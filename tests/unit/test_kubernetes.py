"""What is rendered for Kubernetes: quotas that add up, teams that are closed, workers that have their share."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from infra.render import render
from infra.render.kubernetes import machines, quotas
from jobs.cluster import node
from tests.checkout import LAPTOP, checkout, small_cluster
from tests.strategies import clusters, schedulable

TESTED = {"text": ["Kubernetes"]}
POLICIES = CHECKOUT / "k8s/base/policies/jobs.yaml"


def load(root: Path, data: dict[str, Any]) -> Cluster:
    path = root / "clusters" / f"{data['name']}.yaml"
    path.write_text(json.dumps(data))
    return load_cluster(path, root=root, host=LAPTOP)


def ours(root: Path, name: str) -> Cluster:
    (root / f"clusters/{name}.yaml").write_text((CHECKOUT / f"clusters/{name}.yaml").read_text())
    return load_cluster(f"clusters/{name}.yaml", root=root, host=LAPTOP)


def documents(text: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(text))


def by_kind(files: dict[str, str], kind: str) -> list[dict[str, Any]]:
    found = []
    for name, text in files.items():
        if name.startswith("kubernetes/") and name.endswith(".yaml"):
            found += [each for each in documents(text) if each.get("kind") == kind]
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path)


amounts = st.integers(0, 10**7)


@given(total=amounts, rows=st.lists(st.tuples(st.integers(1, 1000), amounts), min_size=1, max_size=8))
def test_shares_are_all_there_is_and_no_more(total: int, rows: list[tuple[int, int]]) -> None:
    weights = {str(i): weight for i, (weight, _) in enumerate(rows)}
    caps = {str(i): cap for i, (_, cap) in enumerate(rows)}
    found = quotas.shares(total, weights, caps)
    assert list(found) == list(weights)
    assert sum(found.values()) == min(total, sum(caps.values()))
    assert all(0 <= found[name] <= caps[name] for name in weights)


@given(total=amounts, weights=st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_without_caps_everyone_has_the_share_within_one(total: int, weights: list[int]) -> None:
    named = {str(i): weight for i, weight in enumerate(weights)}
    for name, got in quotas.shares(total, named, dict.fromkeys(named, total)).items():
        assert abs(got - total * named[name] / sum(weights)) <= 1


@settings(max_examples=25, deadline=None)
@given(data=clusters(schedulable()))
def test_quotas_never_exceed_what_the_pools_have(
    data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = load(checkout(tmp_path_factory.mktemp("random")), data)
    rights = quotas.quotas(cluster)
    for pool in cluster.pools:
        has = quotas.capacity(pool)
        for kind in quotas.resources(cluster):
            rows = [rights[team][pool.name][kind] for team in cluster.accounts]
            assert sum(row.nominal for row in rows) <= has.get(kind, 0)
            assert all(0 <= row.nominal <= row.most <= has.get(kind, 0) for row in rows)
    for name, account in cluster.accounts.items():
        gpus = [kind for kind in quotas.resources(cluster) if kind not in (quotas.CPU, quotas.MEMORY)]
        given_ = sum(row[kind].most for row in rights[name].values() for kind in gpus)
        assert account.max_gpus is None or given_ <= account.max_gpus


def test_what_the_lab_gives_is_what_its_workers_have(root: Path) -> None:
    cluster = ours(root, "kind")
    [pool] = cluster.pools
    [kind] = documents(render(cluster)["kind.yaml"])
    control_plane, *workers = kind["nodes"]
    assert control_plane == {"role": "control-plane"}
    assert [worker["labels"]["slipway.dev/node"] for worker in workers] == list(pool.nodes)
    for worker in workers:
        [patch] = [YAML(typ="safe").load(text) for text in worker["kubeadmConfigPatches"]]
        reserved = patch["nodeRegistration"]["kubeletExtraArgs"]["system-reserved"]
        assert reserved == f"cpu={LAPTOP.cores - pool.cpus},memory={LAPTOP.memory_mib - pool.memory_mib}Mi"


def test_two_schedulers_on_one_machine_have_half_each(root: Path) -> None:
    [alone], [shared] = ours(root, "kind").pools, ours(root, "both").pools
    assert (shared.cpus, alone.cpus) == (2, 4)
    assert abs(shared.memory_mib - alone.memory_mib / 2) <= 100
    files = render(ours(root, "both"))
    assert "compose.yaml" in files and "kind.yaml" in files
    assert "RealMemory=" + str(shared.memory_mib) in files["slurm/slurm.conf"]


def test_every_team_is_closed_and_restricted(root: Path) -> None:
    files = render(ours(root, "kind"))
    teams = {"research", "trial"}
    spaces = by_kind(files, "Namespace")
    assert {each["metadata"]["name"] for each in spaces} == teams
    for each in spaces:
        assert each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    closed = [p for p in by_kind(files, "NetworkPolicy") if p["metadata"]["name"] == "deny-all"]
    assert {each["metadata"]["namespace"] for each in closed} == teams
    for each in closed:
        assert each["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for kind in ("ResourceQuota", "LimitRange", "LocalQueue", "ConfigMap"):
        assert {"research", "trial"} <= {each["metadata"]["namespace"] for each in by_kind(files, kind)}
    quota = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each["spec"]["hard"]
        for each in by_kind(files, "ResourceQuota")
    }
    assert quota["trial", "team"]["requests.nvidia.com/gpu"] == "8"  # twice what Kueue gives
    assert quota["trial", "jobs"] == {"count/pytorchjobs.kubeflow.org": "2"}


def test_a_limit_is_what_may_be_borrowed_at_most(root: Path) -> None:
    files = render(ours(root, "kind"))
    queues = {each["metadata"]["name"]: each["spec"] for each in by_kind(files, "ClusterQueue")}
    assert queues["research"]["cohort"] == queues["trial"]["cohort"] == "kind"
    rows = {
        team: {row["name"]: row for row in queue["resourceGroups"][0]["flavors"][0]["resources"]}
        for team, queue in queues.items()
    }
    gpu = "nvidia.com/gpu"  # 16, shared 10 : 1, and trial has 4 at most
    assert rows["research"][gpu] == {"name": gpu, "nominalQuota": "15"}
    assert rows["trial"][gpu] == {"name": gpu, "nominalQuota": "1", "borrowingLimit": "3"}
    assert queues["research"]["preemption"]["reclaimWithinCohort"] == "LowerPriority"


def test_the_policy_reads_what_is_rendered(root: Path) -> None:
    """The keys of the teams' limits are those that the policy takes apart."""
    [limits, _] = [
        each for each in by_kind(render(ours(root, "kind")), "ConfigMap") if "queue" in each["data"]
    ]
    assert limits["data"] == {
        "queue": "research",
        "priorities": "normal,high,scavenger",
        "most.cpu": "8000m",
        "pod.cpu": "4000m",
        "most.memory": "24000Mi",
        "pod.memory": "12000Mi",
        "most.nvidia.com_gpu": "16",
        "pod.nvidia.com_gpu": "8",
    }
    text = POLICIES.read_text()
    for word in ("'most.' + name", "'pod.' + name", "params.data.queue", "params.data.priorities"):
        assert word in text
    assert limits["metadata"]["name"] in text


def test_a_pod_reads_the_figures_of_its_kind_of_machine(root: Path, tmp_path: Path) -> None:
    """Every file that a rendered job names is there, unless pools would make it say two things."""
    files = render(ours(root, "kind"))
    found = next(each for each in by_kind(files, "ConfigMap") if each["metadata"]["name"] == machines.NAME)[
        "data"
    ]
    assert set(found) == {"gpu.json", "cpu.json", "h100-sxm-8x.json"}
    pod = documents(files["kubernetes/jobs/ddp.yaml"])[0]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    (container,) = pod["spec"]["containers"]
    named = next(each["value"] for each in container["env"] if each["name"] == "SLIPWAY_NODE")
    (volume,) = (each for each in pod["spec"]["volumes"] if "configMap" in each)
    assert volume["configMap"] == {"name": machines.NAME, "optional": True}
    file = tmp_path / "gpu.json"
    file.write_text(found[Path(named).name])
    here = node.read(file)  # as the job in the pod does
    assert (here.hardware, here.cpus, here.gpus) == ("lab-cpu", 4, 0)
    assert here.maximum_w and here.usd_per_hour

    text = (CHECKOUT / "tests/golden/clusters/mixed.yaml").read_text()
    file = root / "clusters/mixed.yaml"
    file.write_text(text)
    assert set(machines.files(load_cluster(file, root=root, host=LAPTOP))) == {
        *("gpu.json", "a100-sxm-8x.json"),
        *("cpu.json", "cpu-epyc-2s.json"),
    }
    file.write_text(text.replace("cpu-epyc-2s\n    count", "h100-sxm-8x\n    count"))
    cluster = load_cluster(file, root=root, host=LAPTOP)
    found = machines.files(cluster)
    assert set(found) == {"a100-sxm-8x.json", "h100-sxm-8x.json"}, "GPUs of two types: a job has to say which"
    stand_ins = tuple(dataclasses.replace(pool, simulated=True) for pool in cluster.pools)
    said = machines.files(dataclasses.replace(cluster, pools=stand_ins))
    assert said["gpu.json"] == said["cpu.json"] == '{\n "simulated": true\n}\n'  # true of both
    assert json.loads(found["h100-sxm-8x.json"])["cost"]["hardware"] == "h100-sxm-8x"


def test_jobs_are_those_of_the_person_in_the_lab_and_of_the_image_elsewhere(root: Path) -> None:
    [job] = documents(render(ours(root, "kind"))["kubernetes/jobs/ddp.yaml"])
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == LAPTOP.uid
    assert pod["containers"][0]["image"] == "slipway.local/job:base"
    metal = small_cluster(
        schedulers=["slurm", "kubernetes"], software={"registry": "registry.example.org/slipway"}
    )
    files = render(load(root, metal))
    [job] = documents(files["kubernetes/jobs/ddp.yaml"])
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    image = pod["containers"][0]["image"]
    assert image.startswith("registry.example.org/slipway/stack-cuda13:")
    assert "stack" not in [volume["name"] for volume in pod["volumes"]]
    assert "components:\n  - ../../../k8s/overlays/gpu\n" in files["kubernetes/kustomization.yaml"]
    [top] = documents(files["kubernetes/kustomization.yaml"])
    assert {"name": "slipway.local/kueue", "newName": "registry.example.org/slipway/kueue"} in top["images"]
    assert top["patches"] == [{"path": "registry.yaml"}]
    assert "value: registry.example.org/slipway/tools:v" in files["kubernetes/registry.yaml"]
    assert documents(files["kubernetes/gpu-operator-values.yaml"])[0]["driver"]["version"] == "580.95.05"


def test_gpus_are_cut_only_where_a_pool_asks_for_it(root: Path) -> None:
    pool = {"hardware": "h100-sxm-8x", "count": 2}
    for mig, strategy, count in ((None, "none", "8"), ("1g.10gb", "single", "56")):
        asked = pool | ({"mig": mig} if mig else {})
        files = render(
            load(root, small_cluster(schedulers=["kubernetes"], pools={"gpu": asked}, partitions=None))
        )
        [values] = documents(files["kubernetes/gpu-operator-values.yaml"])
        assert (values["mig"]["strategy"], values["migManager"]["enabled"]) == (strategy, bool(mig))
        [nodes] = documents(files["kubernetes/nodes.yaml"])
        assert nodes["capacity"] == {"nvidia.com/gpu": count}
        assert nodes["labels"].get("nvidia.com/mig.config") == (f"all-{mig}" if mig else None)


def account(name: str) -> dict[str, Any]:
    return {
        "accounts": {name: {"description": "A", "qos": ["normal"]}},
        "users": {"ml": {"accounts": [name], "uid": 2000}},
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (account("kubeflow"), "accounts.kubeflow: is a namespace of the cluster's own; take another name"),
        (account("kube-x"), "accounts.kube-x: is a namespace of the cluster's own; take another name"),
        (account("a-"), "accounts.a-: 'a-' is no name in Kubernetes: no '_', and no '-' at its end"),
        (
            {"qos": {"normal": {}, "system-x": {}}},
            "qos.system-x: Kubernetes keeps priority classes of 'system-' for itself",
        ),
        (
            {"qos": {"normal": {"priority": 2_000_000_000}}},
            "qos.normal.priority: 2000000000 is above 1000000000, the highest priority of pods",
        ),
    ],
)
def test_names_that_kubernetes_does_not_take(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake) as mistake:
        load(root, small_cluster(schedulers=["kubernetes"], **changes))
    assert str(mistake.value).endswith(f": {said}")
    load(root, small_cluster(**changes))  # Slurm takes them all


def test_kubernetes_needs_no_partitions(root: Path) -> None:
    pools = {"gpu": {"hardware": "h100-sxm-8x", "count": 2}}
    assert load(root, small_cluster(schedulers=["kubernetes"], pools=pools, partitions=None)).nodes
