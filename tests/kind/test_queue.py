"""Kubernetes: jobs are admitted whole or not at all; a job of higher priority takes the place of a lower one."""

from collections.abc import Iterator

import pytest

from infra.places.kind.objects import WORKLOADS
from tests.kind.conftest import TEAM, Trial, until
from tests.training import TRAIN, at_step

TESTED = {"real": ["Kubernetes"]}
SHORT = ("--train.steps=20", "--run.validate=64")


def half_and_more(data: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    """More than half of the cluster's simulated GPUs, whatever this machine's cores are."""
    gpus(data, "5")


def gpus(data: dict[str, dict[str, dict[str, dict[str, object]]]], each: str) -> None:
    """So many for each of the two pods."""
    for replica in data["spec"]["pytorchReplicaSpecs"].values():
        container = replica["template"]["spec"]["containers"][0]  # type: ignore[index]
        for limits in container["resources"].values():
            limits["nvidia.com/gpu"] = each


def test_a_job_of_higher_priority_goes_first_and_the_other_goes_on_after_it(kind: Trial) -> None:
    def low(data: dict[str, dict[str, dict[str, str]]]) -> None:
        half_and_more(data)  # type: ignore[arg-type]
        _priority(data, "scavenger")

    def high(data: dict[str, dict[str, dict[str, str]]]) -> None:
        half_and_more(data)  # type: ignore[arg-type]
        _priority(data, "high")

    lower = kind.apply("lower", *TRAIN, change=low)
    until("step 20", at_step(lower, 20))
    higher = kind.apply("higher", *SHORT, change=high)
    until("the lower one to wait", lambda: kind.waits("lower").startswith("quota: "), timeout_s=120)
    kind.finish(higher)
    kind.finish(lower)
    assert lower.summary["resumed_from"] >= 20
    assert lower.summary["step"] == lower.summary["steps"]


def test_a_pod_larger_than_any_node_is_refused_at_once_with_the_limit(kind: Trial) -> None:
    """Nobody waits for what can never come."""

    def too_large(data: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
        container = data["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]  # type: ignore[index]
        for limits in container["resources"].values():
            limits["nvidia.com/gpu"] = "9"

    assert "nvidia.com/gpu 9, where the largest node has 8" in kind.refused("larger", too_large)


@pytest.fixture
def impatient(kind: Trial) -> Iterator[None]:
    """Kueue waits 45 s for a job's pods, and not the 10 minutes of k8s/kueue/controller_manager_config.yaml."""

    def patience(said: str, wanted: str) -> None:
        text = kind.ok("kubectl -n kueue-system get configmap kueue-manager-config -o json")
        assert f"timeout: {said}" in text
        where = kind.kind.folder / "patience.json"
        where.write_text(text.replace(f"timeout: {said}", f"timeout: {wanted}"))
        kind.ok(f"kubectl replace -f {where}")
        kind.ok("kubectl -n kueue-system rollout restart deployment")
        kind.ok("kubectl -n kueue-system rollout status deployment --timeout=180s")

    patience("10m", "45s")
    yield
    patience("45s", "10m")


@pytest.mark.more
def test_a_job_whose_pods_never_start_gives_its_share_back(kind: Trial, impatient: None) -> None:
    def never(data: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
        half_and_more(data)
        for replica in data["spec"]["pytorchReplicaSpecs"].values():
            replica["template"]["spec"]["containers"][0]["image"] = "slipway.local/nothing:here"  # type: ignore[index]

    kind.apply("never", change=never)
    until("the reason", lambda: "slipway.local/nothing:here" in kind.waits("never"), timeout_s=120)
    behind = kind.apply("behind", *SHORT, change=half_and_more)
    until("the other to wait", lambda: kind.waits("behind").startswith("quota: "), timeout_s=60)
    until("it to have the share", lambda: kind.look("behind").state == "RUNNING", timeout_s=120)
    workloads = kind.kind.api.get(WORKLOADS, namespace=TEAM)
    (evicted,) = [each for each in workloads if each["metadata"]["ownerReferences"][0]["name"] == "never"]
    reasons = [each["reason"] for each in evicted["status"]["conditions"] if each["type"] == "Evicted"]
    assert reasons == ["PodsReadyTimeout"]
    kind.finish(behind)


def _priority(data: dict[str, dict[str, dict[str, str]]], name: str) -> None:
    data["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] = name
    for replica in data["spec"]["pytorchReplicaSpecs"].values():
        replica["template"]["spec"]["priorityClassName"] = name  # type: ignore[index]
