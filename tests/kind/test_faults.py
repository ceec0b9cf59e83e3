"""Kubernetes: nothing is lost when something dies: a pod, a node, an operator, the control plane."""

import pytest

from tests.kind.conftest import TEAM, Trial, docker, until
from tests.training import STEPS, TRAIN, History, at_step, history

TESTED = {"real": ["Kubernetes", "training on two nodes"]}


def test_a_deleted_pod_costs_no_step(kind: Trial, reference: History) -> None:
    run = kind.apply("deleted", *TRAIN)
    until("step 25", at_step(run, 25))
    kind.ok(f"kubectl -n {TEAM} delete pod deleted-worker-0 --wait=false")
    kind.finish(run)
    assert history(run) == reference
    assert run.summary["resumed_from"] >= 20  # it was warned, or has the checkpoint of step 20


@pytest.mark.more
def test_a_killed_pod_costs_no_step(kind: Trial, reference: History) -> None:
    run = kind.apply("killed", *TRAIN)
    until("step 25", at_step(run, 25))
    kind.ok(f"kubectl -n {TEAM} delete pod killed-worker-0 --grace-period=0 --force")
    kind.finish(run)
    assert history(run) == reference
    assert run.summary["resumed_from"] >= 20


def test_a_job_waits_for_a_killed_node_and_says_which(kind: Trial, reference: History) -> None:
    run = kind.apply("waits", *TRAIN)
    until("step 25", at_step(run, 25))
    (pod,) = [each for each in kind.pods("waits") if each["metadata"]["name"] == "waits-worker-0"]
    container = pod["spec"]["nodeName"]
    node = kind.kind.called(container)
    docker("kill", container)
    until("the reason", lambda: f"node {node} is not ready" in kind.waits("waits"), timeout_s=120)
    status = kind.sh("make status")
    assert status.returncode != 0, "a node is not well"
    assert f"node {node} is not ready" in status.stdout
    assert history(run)[-1][0] < STEPS
    docker("start", container)
    kind.finish(run)
    assert history(run) == reference


def test_operator_and_control_plane_restart_in_the_middle(kind: Trial, reference: History) -> None:
    run = kind.apply("restarts", *TRAIN)
    until("step 5", at_step(run, 5))
    kind.ok("kubectl -n kubeflow rollout restart deployment")
    kind.ok("kubectl -n kueue-system rollout restart deployment")
    docker("restart", kind.kind.control_plane)
    kind.finish(run)
    assert history(run) == reference
    assert run.summary["restarts"] == 0, "pods have gone on meanwhile"
    kind.ok("kubectl -n kubeflow rollout status deployment --timeout=120s")
    kind.ok("kubectl -n kueue-system rollout status deployment --timeout=120s")
