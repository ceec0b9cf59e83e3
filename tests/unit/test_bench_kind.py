"""Kubernetes' figures: the order of admission, jobs that were not admitted whole, nodes that kwok plays."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.base import paths
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.bench import compiled, fake, kubernetes, scale, world
from infra.bench.figure import Figure
from infra.bench.scale import NEVER, Admission, Memory, Run
from infra.bench.watch import Event, Watch
from infra.host import engine
from infra.images import programs
from infra.places.kind.facts import JOB_LABEL

T = "2026-11-23T12:00:{:02}Z"


def workload(
    job: str, *, priority: int = 100, created: int = 0, reserved: int | None = None
) -> dict[str, Any]:
    status = "False" if reserved is None else "True"
    condition = {"type": "QuotaReserved", "status": status, "lastTransitionTime": T.format(reserved or 0)}
    return {
        "metadata": {"creationTimestamp": T.format(created), "ownerReferences": [{"name": job}]},
        "spec": {"priority": priority},
        "status": {"conditions": [condition]},
    }


def pod(job: str, name: str, phase: str = "Running") -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {JOB_LABEL: job}}, "status": {"phase": phase}}


def events(*objects: dict[str, Any]) -> list[Event]:
    return [Event(float(number), "MODIFIED", each) for number, each in enumerate(objects)]


def test_a_job_is_admitted_when_that_is_first_heard() -> None:
    found = scale.admissions(
        events(workload("a"), workload("b"), workload("a", reserved=7), workload("a", reserved=9))
    )
    assert found == [
        Admission("a", 100, T.format(0), T.format(7), 2.0),
        Admission("b", 100, T.format(0), NEVER, 1.0),
    ]
    assert [each.job for each in scale.admitted(events(workload("a"), workload("b", reserved=1)))] == ["b"]


@pytest.mark.parametrize(
    ("jobs", "wrong"),
    [
        ([(100, 0, 5), (100, 1, 6), (100, 1, 5)], 0),  # of those that came in one second, any may be first
        ([(100, 1, 5), (100, 0, 6)], 1),  # the younger one was first
        ([(1, 0, 5), (100, 1, 6)], 1),  # the lesser one was first
        ([(1, 0, None), (100, 1, 6)], 0),
        ([(1, 0, 6), (100, 1, None)], 1),  # one that waits was overtaken
        ([(1, 0, 6), (1, 1, 6), (100, 1, 6)], 0),
    ],
)
def test_order_is_by_priority_then_by_time(jobs: list[tuple[int, int, int | None]], wrong: int) -> None:
    found = [
        Admission(str(number), priority, T.format(created), NEVER if decided is None else T.format(decided))
        for number, (priority, created, decided) in enumerate(jobs)
    ]
    assert len(scale.overtaken(found)) == wrong


def test_a_job_that_waits_has_no_pods() -> None:
    workloads = events(workload("a", reserved=1), workload("b"))
    assert scale.wrongs(workloads, events(pod("a", "a-0"))) == []
    (line,) = scale.wrongs(workloads, events(pod("a", "a-0"), pod("b", "b-0", "Pending")))
    assert line.startswith("b has pods")


def test_pods_run_when_that_is_first_heard() -> None:
    assert scale.running(events(pod("a", "0", "Pending"), pod("a", "0"), pod("a", "0"))) == {"0": 1.0}


def test_a_watch_keeps_the_time_of_each_change_and_says_when_it_broke() -> None:
    watch = Watch()
    for kind in ("ADDED", "DELETED"):
        watch.hear(kind, {})
        assert watch.events()[-1].what == kind
    first, second = watch.events()
    assert first.heard <= second.heard
    watch.ended = Failure("gone")
    with pytest.raises(Failure, match="gone"):
        watch.events()


def test_larger_sizes_stand_beside_the_first_and_memory_beside_its_limit() -> None:
    memory = Memory()
    memory.look({"manager": 50.0})
    memory.look({"manager": 80.0})
    memory.look({"manager": 70.0})
    figures = scale.figures([Run(100, 50, 5, 1, 10, memory), Run(1000, 500, 100, 20, 100, memory)])
    by_name = {figure.name: figure for figure in figures}
    assert by_name["100 nodes, 50 jobs: a job admitted"] == Figure(
        "100 nodes, 50 jobs: a job admitted", 20.0, "ms"
    )
    assert by_name["1,000 nodes, 500 jobs: a job admitted"].reached == 0.5
    kueue = by_name["1,000 nodes, 500 jobs: memory of Kueue"]
    assert (kueue.value, kueue.limit, kueue.limit_name) == (80.0, 1024.0, "its limit")
    assert kueue.reached == pytest.approx(12.8)


def test_nodes_that_kwok_plays_are_those_of_the_cluster_file_and_for_no_others() -> None:
    cluster = fake.load(100)
    last = fake.node(cluster, 99)
    assert last["metadata"]["name"] == "fake100"
    assert last["metadata"]["labels"]["slipway.dev/pool"] == "scale"
    assert "kubernetes.io/os" not in last["metadata"]["labels"]
    assert last["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert fake.TAINT in last["spec"]["taints"]
    largest = fake.load(fake.MOST)
    networks = {fake.node(largest, number)["spec"]["podCIDR"] for number in range(fake.MOST)}
    assert len(networks) == fake.MOST
    assert max(int(network.split(".")[2]) for network in networks) <= 255


def test_the_pod_network_leaves_such_nodes_alone() -> None:
    folder = CHECKOUT / "k8s/overlays/lab/pod-network"
    assert "nodeSelector: {kubernetes.io/os: linux}" in (folder / "daemonset.yaml").read_text()
    assert "--selector kubernetes.io/os=linux" in (folder / "pod-network").read_text()


def test_fake_jobs_are_the_real_one_on_whole_nodes_without_volumes() -> None:
    low, normal, high = fake.jobs(0, 3)
    assert [
        each["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] for each in (low, normal, high)
    ] == list(fake.PRIORITIES)
    for replica in low["spec"]["pytorchReplicaSpecs"].values():
        (container,) = replica["template"]["spec"]["containers"]
        assert {amounts["nvidia.com/gpu"] for amounts in container["resources"].values()} == {fake.GPUS}
        assert "persistentVolumeClaim" not in json.dumps(replica)
        names = {volume["name"] for volume in replica["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == names


ATTEMPT = {
    "first_step_unix": 110.0,
    "phases": {"agent": 3.0, "import": 2.0, "first_step": 1.0},
}  # from 104 on


def test_phases_of_a_start_add_up_also_where_the_job_was_faster_than_the_watch() -> None:
    start = kubernetes.started(100.0, {"apply": 100.5, "scheduled": 102.0, "running": 104.5}, ATTEMPT)
    assert start.seconds == 10.0
    assert sum(start.phases.values()) == 10.0
    assert start.phases["running"] == 2.0
    assert start.phases["start"] == 0.0


def test_a_phase_is_over_when_the_last_pod_or_the_first_has_left_it() -> None:
    def of(uid: str, phase: str) -> dict[str, Any]:
        return {"metadata": {"uid": uid}, "status": {"phase": phase}}

    heard = events(of("a", "Pending"), of("b", "Running"), of("a", "Running"), of("a", "Running"))
    assert kubernetes.first_of_each(heard, kubernetes._runs) == [1.0, 2.0]
    assert kubernetes.first(heard, kubernetes._runs) == 1.0
    with pytest.raises(Failure, match="missed"):
        kubernetes.first(heard[:1], kubernetes._runs)
    with pytest.raises(Failure, match="missed"):
        kubernetes.first_of_each([], kubernetes._runs)


def test_a_node_is_ready_since_a_time() -> None:
    def node(status: str) -> dict[str, Any]:
        condition = {"type": "Ready", "status": status, "lastTransitionTime": "2026-11-23T12:00:00Z"}
        return {"metadata": {"name": "worker"}, "status": {"conditions": [condition]}}

    assert kubernetes._ready_since(node("True")) == 1795435200
    with pytest.raises(Failure, match="worker is not ready"):
        kubernetes._ready_since(node("Unknown"))


def test_time_of_compiling_is_what_builds_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "took", lambda name: programs.Took(10.0, name == "kind", 7))
    result = compiled.measure()
    total, *each = result.figures
    assert total.value == sum(figure.value for figure in each) == 70
    assert "kubernetes v1.34.4 7, " in result.method
    assert result.method.endswith("7 and 1 modules downloaded")
    monkeypatch.setattr(programs, "took", lambda name: None if name == "kwok" else programs.Took(1, 0, 0))
    with pytest.raises(Failure, match=r"build of kwok; compile anew: .* --cold"):
        compiled.measure()


def test_every_program_of_kubernetes_is_among_them() -> None:
    assert {*compiled.NAMES, "pulumi"} == set(programs.PROGRAMS)


def test_a_cluster_of_someone_else_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "FOLDER", tmp_path)
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    monkeypatch.setattr(engine, "names", lambda kind, *labels: ["c1"] if world.KINDS in labels else [])
    with pytest.raises(Failure, match="'bench-kind' runs from elsewhere"), world.alone():
        pass
    file = tmp_path / "checkout/build" / world.KIND / "kind.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(world, "remove_machines", lambda name: None)
    with world.alone():
        pass
