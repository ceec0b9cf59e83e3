"""Kubernetes on this machine, what needs no cluster: stages of manifests, what a job waits for, kubeconfigs."""

from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import Mistake
from infra.model.load import load_cluster
from infra.places.kind import config, facts
from infra.places.kind.cluster import Kind
from infra.places.kind.deploy import available, stages, undefined
from infra.places.kind.manifests import built
from tests.checkout import LAPTOP

OURS = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: AAAA
    server: https://127.0.0.1:40000
  name: kind-slipway-x
contexts:
- context:
    cluster: kind-slipway-x
    user: kind-slipway-x
  name: kind-slipway-x
current-context: kind-slipway-x
kind: Config
users:
- name: kind-slipway-x
  user:
    client-key-data: BBBB
"""
THEIRS = """\
apiVersion: v1
kind: Config
# my own cluster
clusters:
- cluster:
    server: https://mine:6443
  name: mine
contexts:
- context:
    cluster: mine
    user: me
  name: mine
current-context: mine
users:
- name: me
  user:
    token: "1234" # a number in quotes
"""


def test_a_kubeconfig_without_all_keys_is_the_same_afterwards() -> None:
    alone = "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://mine\n  name: mine\n"
    assert config.without(config.merged(alone, OURS), "kind-slipway-x") == alone


def test_a_kubeconfig_is_added_to_and_taken_out_again_without_a_trace() -> None:
    both = config.merged(THEIRS, OURS)
    assert "kind-slipway-x" in both
    assert "current-context: mine" in both
    assert "# my own cluster" in both
    assert config.merged(both, OURS) == both, "adding it again changes nothing"
    assert config.without(both, "kind-slipway-x") == THEIRS


def test_a_kubeconfig_of_nothing_else_uses_ours_and_is_empty_after_it() -> None:
    alone = config.merged("", OURS)
    assert "current-context: kind-slipway-x" in alone
    assert config.without(alone, "kind-slipway-x") == ""


def test_a_new_kubeconfig_of_ours_replaces_the_old_one() -> None:
    moved = config.merged(config.merged(THEIRS, OURS), OURS.replace("40000", "40001"))
    assert "40001" in moved
    assert "40000" not in moved


@pytest.mark.parametrize(
    "text", ["a: b: c", "clusters:\n\t- x", "- 1", "clusters: 3", "users: [1]", "a: 1\na: 2", "\0", "x"]
)
def test_a_kubeconfig_of_the_users_that_is_none_is_one_line_and_stays(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".kube" / "config"
    file.parent.mkdir()
    file.write_text(text)
    monkeypatch.setattr(config, "users_own", lambda: file)
    with pytest.raises(Mistake) as mistake:
        config.undo(Kind(load_cluster("clusters/kind.yaml", host=LAPTOP)))
    assert "\n" not in str(mistake.value)
    assert "left as it is" in str(mistake.value)
    assert file.read_text() == text


def test_definitions_and_namespaces_are_applied_before_all_else() -> None:
    first, rest = stages(
        built(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n---\n"
            "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: b\n---\n"
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: d\n"
        )
    )
    assert [each.name for each in first] == ["a", "d"]
    assert [each.name for each in rest] == ["b"]


def test_a_definition_is_there_when_the_server_says_so() -> None:
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    named: list[dict[str, Any]] = [
        {"metadata": {"name": "a"}, "status": established},
        {"metadata": {"name": "b"}},
    ]
    assert undefined(named) == ["b"]


@pytest.mark.parametrize(
    ("kind", "status", "is_it"),
    [
        ("Deployment", {"observedGeneration": 2, "availableReplicas": 1, "updatedReplicas": 1}, True),
        ("Deployment", {"observedGeneration": 1, "availableReplicas": 1, "updatedReplicas": 1}, False),
        ("Deployment", {"observedGeneration": 2}, False),
        ("DaemonSet", {"observedGeneration": 2, "desiredNumberScheduled": 3, "numberAvailable": 2}, False),
    ],
)
def test_what_is_available(kind: str, status: dict[str, int], is_it: bool) -> None:
    each = {"kind": kind, "metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": status}
    assert available(each) is is_it


def job(*conditions: str, suspend: bool = False) -> dict[str, Any]:
    return {
        "kind": "PyTorchJob",
        "metadata": {
            "name": "ddp",
            "namespace": "research",
            "uid": "u1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kueue.x-k8s.io/queue-name": "research"},
        },
        "spec": {"runPolicy": {"suspend": suspend}},
        "status": {"conditions": [{"type": each, "status": "True", "message": each} for each in conditions]},
    }


def pod(name: str, node: str = "", **status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "research", "labels": {facts.JOB_LABEL: "ddp"}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending", **status},
    }


def node(name: str, called: str, *, ready: bool) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "Unknown", "message": "Kubelet is silent."}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"slipway.dev/node": called}},
        "spec": {},
        "status": {"conditions": [condition]},
    }


def waits(*objects: dict[str, Any]) -> str:
    (found,) = facts.jobs(facts.World.of(objects))
    return found.waits


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ((), "PENDING"),
        (("Created",), "PENDING"),
        (("Created", "Running"), "RUNNING"),
        (("Created", "Restarting"), "REQUEUED"),
        (("Created", "Succeeded"), "COMPLETED"),
        (("Created", "Failed"), "FAILED"),
    ],
)
def test_the_state_of_a_job(conditions: tuple[str, ...], state: str) -> None:
    (found,) = facts.jobs(facts.World.of([job(*conditions)]))
    assert found.state == state


def test_a_job_that_waits_for_a_dead_node_names_it() -> None:
    dead, well = (
        node("slipway-kind-worker2", "c2", ready=False),
        node("slipway-kind-worker", "c1", ready=True),
    )
    pods = [pod("ddp-master-0", "slipway-kind-worker"), pod("ddp-worker-0", "slipway-kind-worker2")]
    assert waits(job("Running"), dead, well, *pods) == (
        "node c2 is not ready (ddp-worker-0 is on it): Kubelet is silent."
    )


def test_a_job_that_waits_for_quota_says_what_kueue_says() -> None:
    workload = {
        "kind": "Workload",
        "metadata": {"name": "w", "namespace": "research", "ownerReferences": [{"uid": "u1", "name": "ddp"}]},
        "spec": {"queueName": "research"},
        "status": {
            "conditions": [{"type": "QuotaReserved", "status": "False", "message": "needs 8 more GPUs"}]
        },
    }
    world = facts.World.of([job("Suspended", suspend=True), workload])
    assert facts.jobs(world)[0].waits == "quota: needs 8 more GPUs"
    assert facts.waiting_workloads(world)[0]["job"] == "ddp"


def test_a_pod_that_cannot_start_says_why() -> None:
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    assert waits(job("Created"), pod("ddp-master-0", containerStatuses=[{"state": waiting}])) == (
        "ddp-master-0: ErrImagePull: no such image"
    )
    starting = {"waiting": {"reason": "ContainerCreating"}}
    assert waits(job("Created"), pod("ddp-master-0", containerStatuses=[{"state": starting}])) == ""
    unscheduled = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
    assert waits(job("Created"), pod("ddp-master-0", conditions=unscheduled)) == (
        "ddp-master-0: 0/3 nodes are available"
    )


def test_a_job_whose_pods_are_refused_tells_the_last_warning() -> None:
    events = [
        {
            "kind": "Event",
            "type": "Warning",
            "involvedObject": {"uid": "u1"},
            "message": f"forbidden {i}",
            "lastTimestamp": f"2026-01-01T00:00:0{i}Z",
        }
        for i in (2, 1)
    ]
    assert waits(job("Created"), *events) == "forbidden 2"
