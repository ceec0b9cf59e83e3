"""A job under Kubernetes: the same bits of loss as without, its results on this machine, and what is refused."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from tests.kind.conftest import TEAM, Trial, until
from tests.training import TRAIN, History, history

TESTED = {"real": ["Kubernetes", "training on two nodes"]}


def pod(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a PyTorchJob."""
    return [each["template"]["spec"] for each in data["spec"]["pytorchReplicaSpecs"].values()]


def container(data: dict[str, Any]) -> dict[str, Any]:
    """The container of the first pod template."""
    found: dict[str, Any] = pod(data)[0]["containers"][0]
    return found


def test_the_losses_are_those_of_two_plain_processes(kind: Trial, reference: History) -> None:
    run = kind.apply("same", *TRAIN)
    pods = kind.placed("same")
    kind.finish(run)
    assert history(run) == reference  # bit for bit: JSON keeps every digit of a float
    assert run.summary["restarts"] == 0
    assert len({each["spec"]["nodeName"] for each in pods}) == 2
    for each in pods:
        assert each["spec"]["securityContext"]["runAsNonRoot"]
        assert each["spec"]["automountServiceAccountToken"] is False


def test_results_follows_a_job_and_fetches_its_folder_and_logs(kind: Trial) -> None:
    target = CHECKOUT / "runs" / "fetched"
    shutil.rmtree(target, ignore_errors=True)
    run = kind.apply("fetched", "--train.steps=30")
    until("its first step", run.metrics, timeout_s=120)
    done = kind.make("results", "JOB=fetched")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 20  loss " in done.stdout
    assert "runs/fetched: " in done.stdout
    assert (target / "report.html").is_file()
    assert "step   30/30" in (target / "logs" / "fetched-master-0.log").read_text()
    shutil.rmtree(target)
    assert kind.make("results", "JOB=nothing").returncode != 0


def too_much_memory(data: dict[str, Any]) -> None:
    for limits in container(data)["resources"].values():
        limits["memory"] = "900Gi"


def as_root(data: dict[str, Any]) -> None:
    for each in pod(data):
        each["securityContext"] |= {"runAsUser": 0, "runAsNonRoot": False}


def privileged(data: dict[str, Any]) -> None:
    container(data)["securityContext"] = {"privileged": True}


def unknown_queue(data: dict[str, Any]) -> None:
    data["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "nobody"


def no_queue(data: dict[str, Any]) -> None:
    del data["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(too_much_memory, "memory", id="too much memory"),
        pytest.param(as_root, "root", id="as root"),
        pytest.param(privileged, "privileged", id="privileged"),
        pytest.param(unknown_queue, "nobody", id="unknown queue"),
        pytest.param(no_queue, "queue", id="no queue"),
    ],
)
def test_a_job_that_may_not_run_is_refused_with_the_reason(
    kind: Trial, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    assert says in kind.refused("refused", change)


def test_a_wrong_image_is_told_of(kind: Trial) -> None:
    def wrong(data: dict[str, Any]) -> None:
        container(data)["image"] = "slipway.local/nothing:here"

    kind.apply("wrong", change=wrong)
    until("the reason", lambda: "slipway.local/nothing:here" in kind.waits("wrong"), timeout_s=120)
    assert "slipway.local/nothing:here" in kind.ok("make status")
    events = kind.ok(f"kubectl -n {TEAM} get events --field-selector type=Warning")
    assert "slipway.local/nothing:here" in events
