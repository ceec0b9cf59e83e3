"""Kubernetes: a job that has taken every GPU, looked at from all sides, and one that waits for its place."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from infra.places.kind import job as jobs
from infra.places.kind.facts import waiting_workloads
from infra.proof import run as job
from tests.kind.conftest import TEAM, Trial, until
from tests.kind.test_queue import SHORT, gpus, half_and_more

TESTED = {"real": ["Kubernetes", "training on two nodes"]}


@pytest.fixture(scope="module")
def everything(kind: Trial) -> Iterator[job.Run]:
    """It runs until the last test of this file ends it. research has 15 of the 16 GPUs."""
    run = kind.apply("everything", "--train.steps=100000", change=lambda data: gpus(data, "8"))
    kind.kept.add(run.id)
    until("its first step", run.metrics, timeout_s=180)
    yield run
    kind.kept.discard(run.id)
    kind.remove()


def test_a_team_borrows_what_another_leaves_idle(kind: Trial, everything: job.Run) -> None:
    borrowed = kind.ok(
        "kubectl get clusterqueue research -o "
        "jsonpath='{.status.flavorsReservation[*].resources[?(@.name==\"nvidia.com/gpu\")].borrowed}'"
    )
    assert borrowed == "1"


def test_prometheus_has_kubelets_operators_and_the_jobs_own_figures(kind: Trial, everything: job.Run) -> None:
    def up() -> set[str]:
        found = kind.prometheus("up == 1")
        return {each["metric"].get("job_name") or each["metric"]["job"] for each in found}

    wanted = {"kubelet", "containers", "kueue", "pods", everything.id}
    until("every target", lambda: up() >= wanted, timeout_s=180)
    loss = f'slipway_train_loss{{job_name="{everything.id}"}} < 6'
    until("a loss", lambda: kind.prometheus(loss), timeout_s=120)


def test_the_kubeconfig_and_the_proxy_of_the_persons_shell_mean_nothing(
    kind: Trial, everything: job.Run
) -> None:
    """What `make` does here is about this cluster, whatever the person's own shell points at."""
    found = kind.ok("KUBECONFIG=/nowhere HTTPS_PROXY=http://127.0.0.1:1 make status")
    assert everything.id in found


def test_a_job_that_does_not_fit_waits_whole_then_runs_and_its_results_are_fetched(
    kind: Trial, everything: job.Run
) -> None:
    def unnamed(data: dict[str, Any]) -> None:
        half_and_more(data)
        data["metadata"]["generateName"] = data["metadata"].pop("name") + "-"

    file = kind.manifest("second", *SHORT, change=unnamed)
    second = jobs.start(kind.kind, jobs.described(file, kind.kind))
    assert second.id.startswith("second-") and second.folder.name == "second"
    until("the reason", lambda: kind.waits(second.id).startswith("quota: "))
    assert any(each["job"] == second.id for each in waiting_workloads(jobs.world(kind.kind)))
    for _ in range(4):
        assert kind.pods(second.id) == [], "none of its pods is there while it waits"
        time.sleep(1)
    assert kind.look(everything.id).state == "RUNNING"
    kind.kept.discard(everything.id)
    kind.ok(f"kubectl -n {TEAM} delete pytorchjob {everything.id} --wait=false")
    until("its first step", second.metrics, timeout_s=180)
    target = CHECKOUT / "runs" / second.id
    done = kind.make("results", f"JOB={second.id}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 20  loss " in done.stdout
    assert f"runs/{second.id}: " in done.stdout
    assert (target / "report.html").is_file()
    assert "step   20/20" in (target / "logs" / f"{second.id}-master-0.log").read_text()
    shutil.rmtree(target)


def test_results_of_no_job_names_those_that_are_there(kind: Trial) -> None:
    said = kind.make("results", "JOB=nothing")
    assert said.returncode != 0
    assert "no run folder of that name; there are" in said.stderr
    assert "summary.json" not in said.stderr
