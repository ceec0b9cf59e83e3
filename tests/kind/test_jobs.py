"""Jobs that Kubernetes refuses, each with the reason, and one that cannot start."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.kind.conftest import TEAM, Trial, until

TESTED = {"real": ["Kubernetes"]}


def pod(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a PyTorchJob."""
    return [each["template"]["spec"] for each in data["spec"]["pytorchReplicaSpecs"].values()]


def container(data: dict[str, Any]) -> dict[str, Any]:
    """The container of the first pod template."""
    found: dict[str, Any] = pod(data)[0]["containers"][0]
    return found


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
