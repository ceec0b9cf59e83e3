"""Kubernetes: nothing is lost when something dies: a pod, a node, an operator, the control plane."""

import pytest

from tests.kind.conftest import TEAM, Trial, docker, until
from tests.training import STEPS, TRAIN, History, at_step, history

TESTED = {"real": ["Kubernetes", "training on two nodes"]}


@pytest.mark.more
def test_a_killed_pod_costs_no_step(kind: Trial, reference: History) -> None:
    run = kind.apply("killed", *TRAIN)
    until("step 25", at_step(run, 25))
    kind.ok(f"kubectl -n {TEAM} delete pod killed-worker-0 --grace-period=0 --force")
    kind.finish(run)
    assert history(run) == reference
    assert run.summary["resumed_from"] >= 20


def test_a_deleted_pod_and_a_killed_node_cost_no_step_and_the_node_is_named(
    kind: Trial, reference: History
) -> None:
    """One job meets both, one after the other."""
    run = kind.apply("lives", *TRAIN)
    until("step 15", at_step(run, 15), every_s=0.1)
    kind.ok(f"kubectl -n {TEAM} delete pod lives-worker-0 --wait=false")
    until("another start", lambda: len(run.attempts()) >= 2, every_s=0.1)
    assert run.attempts()[1]["resumed_from"] >= 10  # it was warned, or has the checkpoint of step 10
    until("step 25", at_step(run, 25), every_s=0.1)
    (pod,) = [each for each in kind.pods("lives") if each["metadata"]["name"] == "lives-worker-0"]
    container = pod["spec"]["nodeName"]
    node = kind.kind.called(container)
    docker("kill", container)
    until("the reason", lambda: f"node {node} is not ready" in kind.waits("lives"), timeout_s=120)
    status = kind.sh("make status")
    assert status.returncode != 0, "a node is not well"
    assert f"node {node} is not ready" in status.stdout
    assert history(run)[-1][0] < STEPS
    docker("start", container)
    kind.finish(run)
    assert history(run) == reference


def test_the_losses_are_those_of_two_plain_processes_while_operator_and_control_plane_restart(
    kind: Trial, reference: History
) -> None:
    run = kind.apply("restarts", *TRAIN)
    pods = kind.placed("restarts")
    assert len({each["spec"]["nodeName"] for each in pods}) == 2
    for each in pods:
        assert each["spec"]["securityContext"]["runAsNonRoot"]
        assert each["spec"]["automountServiceAccountToken"] is False
    until("step 5", at_step(run, 5))
    kind.ok("kubectl -n kubeflow rollout restart deployment")
    kind.ok("kubectl -n kueue-system rollout restart deployment")
    docker("restart", kind.kind.control_plane)
    kind.finish(run)
    assert history(run) == reference  # bit for bit: JSON keeps every digit of a float
    assert run.summary["restarts"] == 0, "pods have gone on meanwhile"
    kind.ok("kubectl -n kubeflow rollout status deployment --timeout=120s")
    kind.ok("kubectl -n kueue-system rollout status deployment --timeout=120s")
