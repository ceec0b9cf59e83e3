"""A thousand nodes and five hundred jobs: in which order and how fast they are admitted, and what memory that takes.

The nodes are played by kwok (infra/bench/fake.py), beside the real ones of a cluster of the bench's own.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.base.wait import until
from infra.bench import fake
from infra.bench.figure import Figure, Result
from infra.bench.watch import Event, watching
from infra.bench.world import World
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import JOB_LABEL
from infra.places.kind.objects import PODS, WORKLOADS

SIZES = ((100, 50), (1000, 500))  # nodes and jobs: each job takes two nodes, so that all of them are taken
EVERY_S = 5  # between two looks at memory; the kubelet itself looks every 10 s
NEVER = "~"  # later than any time
# Container -> what people call it, and its limit in MiB where k8s/ sets one.
WATCHED = {
    "manager": ("Kueue", 1024),
    "training-operator": ("training operator", 512),
    "kube-apiserver": ("API server", None),
    "kube-scheduler": ("scheduler", None),
    "etcd": ("etcd", None),
}


@dataclass(frozen=True)
class Admission:
    """A job in the queue. Times of the API server are ISO, in whole seconds; `heard` is our own clock's."""

    job: str
    priority: int
    created: str
    decided: str = NEVER  # when Kueue chose it
    heard: float = 0.0  # when that was in the API server


@dataclass
class Memory:
    """MiB that each container of WATCHED works with: at the beginning, and the most of all looks."""

    first: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)

    def look(self, found: dict[str, float]) -> None:
        self.first = self.first or found
        self.most = {name: max(mib, self.most.get(name, 0)) for name, mib in found.items()}


@dataclass(frozen=True)
class Run:
    """One size. Seconds: until all jobs were accepted, were admitted, and until all of their pods ran."""

    nodes: int
    jobs: int
    accepted_s: float
    admitted_s: float
    running_s: float
    memory: Memory


def scale(world: World, sizes: Sequence[tuple[int, int]] = SIZES) -> Result:
    """Each size in turn, in one cluster."""
    kind = world.kind_up()
    runs = [measure(kind, nodes, jobs, Step("kubernetes-scale", None)) for nodes, jobs in sizes]
    return Result(
        "kubernetes-scale",
        "the lab's cluster, with nodes beside its own that kwok plays, ready at once, and their pods running at once;"
        " PyTorchJobs (k8s/pytorchjob.yaml) of two pods with eight GPUs each, of three priorities by turns, in one"
        " queue that may use nothing until all are there, and then everything; accepted: created one after another, of"
        " all of them, for each; admitted: from when the queue may use everything to the last one, for each; running:"
        " the same, to the last of all pods; memory: the most that the container worked with, by its kubelet, every"
        f" {EVERY_S} s, and before the nodes came; the limit of a time is that of the smaller size; order of admission"
        " was by priority, then by time, and no job had a pod that was not admitted whole; control plane, operators,"
        " kwok and the bench share this machine's cores",
        figures(runs),
    )


def figures(runs: Sequence[Run]) -> list[Figure]:
    """Times of the larger sizes beside those of the first; memory beside its limit."""
    found = []
    for run in runs:
        size = f"{run.nodes:,} nodes, {run.jobs} jobs"
        for name, value, first in (
            ("accepted", run.accepted_s / run.jobs, runs[0].accepted_s / runs[0].jobs),
            ("admitted", run.admitted_s / run.jobs, runs[0].admitted_s / runs[0].jobs),
            ("all pods running", run.running_s / run.jobs, runs[0].running_s / runs[0].jobs),
        ):
            limit = (None, "") if run is runs[0] else (first * 1e3, f"{runs[0].nodes:,} nodes")
            found.append(Figure(f"{size}: a job {name}", value * 1e3, "ms", *limit))
        for container, (name, mib) in WATCHED.items():
            if container in run.memory.most:
                limit = (None, "") if mib is None else (float(mib), "its limit")
                found.append(Figure(f"{size}: memory of {name}", run.memory.most[container], "MiB", *limit))
                before = run.memory.first[container]
                found.append(Figure("  of it before there were any", before, "MiB"))
    return found


def measure(kind: Kind, nodes: int, jobs: int, this: Step) -> Run:
    """Hold `jobs` jobs on `nodes` nodes, release them, and follow until all pods run.

    Raises Failure when the order is not that of priority and time, or a job that waits has pods.
    """
    with (
        _memory(kind) as memory,
        fake.played(kind, nodes, this) as cluster,
        watching(kind, WORKLOADS, fake.NAME) as workloads,
        watching(kind, PODS, fake.NAME) as pods,
    ):
        this.doing(f"{jobs} jobs")
        begin = time.perf_counter()
        fake.create(kind, fake.jobs(0, jobs))
        accepted = time.perf_counter() - begin
        until(f"{jobs} jobs in the queue", lambda: len(admissions(workloads.events())) == jobs, 600)
        this.doing("admission")
        released = fake.allow(kind, cluster, nodes * fake.GPUS)
        until(f"{jobs} admissions", lambda: len(admitted(workloads.events())) == jobs, 600, every_s=1)
        this.doing("pods")
        wanted = jobs * fake.PODS
        until(f"{wanted} pods", lambda: len(running(pods.events())) == wanted, 1800, every_s=2)
        wrong = wrongs(workloads.events(), pods.events())
        if wrong:
            raise Failure(
                "\n  ".join([f"{len(wrong)} jobs were not admitted as they should be:", *wrong[:5]])
            )
        last = max(each.heard for each in admitted(workloads.events()))
        ran = max(running(pods.events()).values())
    return Run(nodes, jobs, accepted, last - released, ran - released, memory)


def admissions(events: Sequence[Event]) -> list[Admission]:
    """Every job that Kueue knows, admitted or not; each with what was first heard of its admission."""
    found: dict[str, Admission] = {}
    for event in events:
        workload = event.object
        job = str(workload["metadata"]["ownerReferences"][0]["name"])
        if job in found and found[job].decided != NEVER:
            continue
        decided = next(
            (
                each["lastTransitionTime"]
                for each in workload.get("status", {}).get("conditions") or []
                if each["type"] == "QuotaReserved" and each["status"] == "True"
            ),
            NEVER,
        )
        created = str(workload["metadata"]["creationTimestamp"])
        found[job] = Admission(job, int(workload["spec"]["priority"]), created, decided, event.heard)
    return list(found.values())


def admitted(events: Sequence[Event]) -> list[Admission]:
    """Those that were admitted."""
    return [each for each in admissions(events) if each.decided != NEVER]


def running(events: Sequence[Event]) -> dict[str, float]:
    """Every pod that runs, or has run, with when that was first heard."""
    found: dict[str, float] = {}
    for event in events:
        if event.object.get("status", {}).get("phase") == "Running":
            found.setdefault(str(event.object["metadata"]["name"]), event.heard)
    return found


def wrongs(workloads: Sequence[Event], pods: Sequence[Event]) -> list[str]:
    """What is wrong with the admission of jobs that are all of one size: a line for each."""
    return [*overtaken(admissions(workloads)), *halves(admitted(workloads), pods)]


def overtaken(found: Sequence[Admission]) -> list[str]:
    """Jobs that were admitted later than one that had to wait for them: of lower priority, or younger.

    In whole seconds: of two that came, or went, in one second, either may be the first.
    """
    wrong = []
    before: Admission | None = None  # of all before `each` in the right order, the one that was admitted last
    for each in sorted(found, key=lambda one: (-one.priority, one.created, one.decided)):
        if before and each.decided < before.decided:
            wrong.append(
                f"{before.job} (priority {before.priority}, since {before.created}) was admitted at {before.decided},"
                f" {each.job} (priority {each.priority}, since {each.created}) at {each.decided}"
            )
        if not before or each.decided > before.decided:
            before = each
    return wrong


def halves(found: Sequence[Admission], pods: Sequence[Event]) -> list[str]:
    """Jobs that have had a pod and were never admitted."""
    names = {each.job for each in found}
    have = {str(event.object["metadata"]["labels"][JOB_LABEL]) for event in pods}
    return [f"{job} has pods and was not admitted" for job in sorted(have - names)]


@contextmanager
def _memory(kind: Kind) -> Iterator[Memory]:
    """Looks at memory for as long as the block takes."""
    memory, done = Memory(), threading.Event()

    def look() -> None:
        while not done.wait(EVERY_S):
            try:
                memory.look(works_with(kind))
            except Failure:  # the API server is busy: there is a next time
                continue

    memory.look(works_with(kind))
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def works_with(kind: Kind) -> dict[str, float]:
    """MiB of memory that each container of WATCHED works with, as the kubelet of the control plane counts it."""
    said = kind.api.raw(f"/api/v1/nodes/{kind.control_plane}/proxy/stats/summary")
    return {
        container["name"]: container["memory"]["workingSetBytes"] / 2**20
        for pod in json.loads(said)["pods"]
        for container in pod.get("containers", [])
        if container["name"] in WATCHED and "workingSetBytes" in container.get("memory", {})
    }
