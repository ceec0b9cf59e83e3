"""The lab's Kubernetes: from `make cluster-up` and `kubectl apply` to the first training step, a pod's death, disk."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from infra.base.errors import Failure
from infra.base.process import output
from infra.base.progress import Step
from infra.base.wait import until
from infra.bench.cluster import ABOVE_IMPORT_S, REPEATS, SECOND_GOAL_S, Start, between, split, steps
from infra.bench.figure import Figure, Result, phases_line
from infra.bench.watch import Event, watching
from infra.bench.world import KIND, World
from infra.host import engine
from infra.images import kube, programs, stackfolder, targets
from infra.places.kind import job as jobs
from infra.places.kind import manifests
from infra.places.kind.cluster import Kind
from infra.places.kind.done import Done
from infra.places.kind.facts import JOB_LABEL, name
from infra.places.kind.objects import JOBS, NODES, PODS, WORKLOADS
from infra.places.kind.up import PROGRAMS
from infra.places.kind.view import gone
from infra.places.verbs import KUBERNETES_JOB
from infra.proof import run as job

READY_GOAL_S, STEP_GOAL_S, DISK_GOAL_GB = 75, 120, 25
CONTAINER = "slipway-bench-import"
Condition = Callable[[Event], bool]


def up(world: World) -> Result:
    """`make cluster-up` of clusters/kind.yaml where everything is built and nothing runs."""
    kind = _built(world)
    world.down_kind()
    began = time.time()
    said = world.make_kind("cluster-up")
    proved = jobs.run_of(kind, Done.load(kind.folder).proved)
    seconds = float(proved.attempts()[0]["first_step_unix"]) - began
    ready = max(map(_ready_since, kind.api.get(NODES))) - began
    took = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        said_again = world.make_kind("cluster-up")
        took.append(time.perf_counter() - begin)
        if "nothing to change" not in said_again:
            raise Failure(f"a second `make cluster-up` changed something: {said_again.strip()}")
    return Result(
        "kind",
        "`make cluster-up CLUSTER=clusters/kind.yaml` typed with programs, node image and stack there, and no"
        " cluster; nodes ready: until the last of three says so, by the API server's clock in whole seconds; first"
        " training step: of the job that proves it, by the job's clock, training data prepared by it; second: where"
        f" there is nothing to do, which it must say, median of {REPEATS}",
        [
            Figure("kind: cluster-up to nodes ready", ready, "s", READY_GOAL_S, "goal"),
            Figure("kind: cluster-up to the first training step", seconds, "s", STEP_GOAL_S, "goal"),
            Figure("kind: second cluster-up", statistics.median(took), "s", SECOND_GOAL_S, "goal"),
        ],
        steps(said, seconds),
    )


def run_job(world: World) -> Result:
    """`kubectl apply` to the first training step on an idle cluster; then one of its pods is killed."""
    kind = world.kind_up()
    _first_step(world, kind)  # prepares the data, which stays
    imported = statistics.median(_import_torch(world) for _ in range(REPEATS))
    starts = sorted((_first_step(world, kind) for _ in range(REPEATS)), key=lambda each: each.seconds)
    start = starts[REPEATS // 2]
    again = _kill(world, kind)
    limit = (imported + ABOVE_IMPORT_S, f"import torch + {ABOVE_IMPORT_S} s")
    return Result(
        "kind-job",
        f"`kubectl apply` of {KUBERNETES_JOB} typed, to the end of the first training step on 2 nodes by the job's"
        f" clock, median of {REPEATS}; apply: until kubectl has ended; admitted, scheduled, running: until a watch"
        " tells so of the job, of its last pod, of its first pod; agent: torchrun's own import and the rendezvous,"
        " which waits for the second pod; the one import: in the image `base` on one core, median of"
        f" {REPEATS}; pod kill: the worker's pod removed without grace after step 50 to the next"
        f" training step: {phases_line(again.phases)}",
        [
            Figure("kubectl apply to the first training step", start.seconds, "s", *limit),
            Figure("  one import torch on one core", imported, "s"),
            Figure(
                "pod kill to the next training step",
                again.seconds,
                "s",
                start.seconds,
                "apply to the first step",
            ),
        ],
        start.phases,
    )


def disk(world: World) -> Result:
    """What the node image, three nodes, and all that they are made from take."""
    kind = world.kind_up()
    found = targets.targets()
    image = engine.size(found["kind-node"].where)
    parts = engine.size(found["base"].where) + sum(_program(each) for each in kube.PROGRAMS)
    nodes = sum(_node(container.name) for container in kind.containers())
    stack = stackfolder.size(Path(found[world.stack].where))
    compiled = sum(_program(each) for each in PROGRAMS)
    total = image + nodes + stack + compiled
    return Result(
        "kind-disk",
        "node image: its layers, unpacked, beside `base` and the programs that are in it; nodes: what three"
        " containers have written over their image and into their volumes, once `make cluster-up` has ended; all of it:"
        " with the stack's folder and the programs in the cache, without Go's own caches; goal: what"
        " docs/kubernetes.md asks for, Go's caches included",
        [
            Figure("node image of kind", image / 1e9, "GB", parts / 1e9, "base and programs"),
            Figure("disk of three nodes of kind", nodes / 1e9, "GB", image / 1e9, "one node image"),
            Figure("disk of Kubernetes and a stack", total / 1e9, "GB", DISK_GOAL_GB, "goal"),
        ],
    )


def _built(world: World) -> Kind:
    """The cluster, up or not; everything that it is made from is there."""
    here = Step(KIND, None)
    programs.ensure_all(PROGRAMS, here)
    targets.ensure(["kind-node", world.stack], here)
    return world.kind


def _ready_since(node: dict[str, Any]) -> float:
    """Unix time at which a node was ready, in whole seconds."""
    (condition,) = [each for each in node["status"]["conditions"] if each["type"] == "Ready"]
    if condition["status"] != "True":
        raise Failure(f"node {name(node)} is not ready")
    return datetime.fromisoformat(condition["lastTransitionTime"]).timestamp()


def _first_step(world: World, kind: Kind) -> Start:
    run, file = _manifest(world, kind)
    where = jobs.namespace(kind)
    with (
        _removed(kind, run),
        watching(kind, WORKLOADS, where) as workloads,
        watching(kind, PODS, where) as pods,
    ):
        began = time.time()
        kind.kubectl("apply", "--filename", file)
        applied = time.time()
        attempt = _attempt(run, 0)
        ours = [event for event in pods.events() if _of(event, run.id)]
        marks = {
            "apply": applied,
            "admitted": first(workloads.events(), lambda event: _owned(event, run.id) and _admitted(event)),
            "scheduled": max(first_of_each(ours, lambda event: bool(event.object["spec"].get("nodeName")))),
            "running": min(first_of_each(ours, _runs)),
        }
    return started(began, marks, attempt)


def _kill(world: World, kind: Kind) -> Start:
    """Kill the worker's pod in the middle of training."""
    run, file = _manifest(world, kind, "--train.steps=1000", "--checkpoint.every=20", "--checkpoint.keep=2")
    where, at = jobs.namespace(kind), 50
    with _removed(kind, run):
        kind.kubectl("apply", "--filename", file)
        until(f"step {at}", lambda: len(run.metrics()) >= at, 300, every_s=0.1)
        with watching(kind, PODS, where) as pods:
            until("the pods", lambda: len(pods.events()) >= 2, every_s=0.1)
            old = {event.object["metadata"]["uid"] for event in pods.events()}
            began = time.time()
            victim = f"{run.id}-worker-0"
            kind.api.delete(PODS, victim, where, grace_s=0)
            attempt = _attempt(run, 1)
            new = [event for event in pods.events() if event.object["metadata"]["uid"] not in old]
            marks = {"new pods": first(new, lambda event: True), "running": min(first_of_each(new, _runs))}
    return started(began, marks, attempt)


def started(began: float, marks: dict[str, float], attempt: dict[str, Any]) -> Start:
    """Phases that add up: those that we saw, then the job's own, which may have begun before we saw the last."""
    agent, inside = split(attempt)
    seen = {name: min(when, agent) for name, when in marks.items()}
    return Start(attempt["first_step_unix"] - began, {**between(began, {**seen, "start": agent}), **inside})


def first(events: Sequence[Event], true: Condition) -> float:
    """When that was first heard. Raises Failure when it never was."""
    heard = next((event.heard for event in events if true(event)), None)
    if heard is None:
        raise Failure("the watch has missed a phase of the job")
    return heard


def first_of_each(events: Sequence[Event], true: Condition) -> list[float]:
    """The same for each object of which it was heard."""
    found: dict[str, float] = {}
    for event in events:
        if true(event):
            found.setdefault(event.object["metadata"]["uid"], event.heard)
    if not found:
        raise Failure("the watch has missed a phase of the job")
    return list(found.values())


def _of(event: Event, job_name: str) -> bool:
    return bool(event.object["metadata"].get("labels", {}).get(JOB_LABEL) == job_name)


def _owned(event: Event, job_name: str) -> bool:
    return any(owner["name"] == job_name for owner in event.object["metadata"].get("ownerReferences", []))


def _admitted(event: Event) -> bool:
    conditions = event.object.get("status", {}).get("conditions") or []
    return any(each["type"] == "Admitted" and each["status"] == "True" for each in conditions)


def _runs(event: Event) -> bool:
    return bool(event.object.get("status", {}).get("phase") == "Running")


_numbers = iter(range(1, 1000))


def _manifest(world: World, kind: Kind, *options: str) -> tuple[job.Run, Path]:
    """The default job under a name of its own, with options for the program."""
    called = f"bench-{next(_numbers)}"
    (data,) = manifests.read(world.checkout / KUBERNETES_JOB, KUBERNETES_JOB)
    data = json.loads(json.dumps(data))  # without anchors, so that a change is made once for each
    data["metadata"]["name"] = called
    for replica in data["spec"]["pytorchReplicaSpecs"].values():
        (container,) = replica["template"]["spec"]["containers"]
        kept = [arg for arg in container["args"] if not arg.startswith("--run.folder=")]
        container["args"] = [*kept, f"--run.folder=runs/{called}", *options]
    file = kind.folder / f"{called}.json"
    file.write_text(json.dumps(data))
    return jobs.run_of(kind, called), file


@contextmanager
def _removed(kind: Kind, run: job.Run) -> Iterator[None]:
    """The job is removed at the end, and its pods are gone, so that the next one does not wait for them."""
    where = jobs.namespace(kind)
    try:
        yield
    finally:
        kind.api.delete(JOBS, run.id, where)
        gone(kind.api, JOBS, where, names=[run.id], timeout_s=120)
        gone(kind.api, PODS, where, selector=f"{JOB_LABEL}={run.id}", timeout_s=120)


def _attempt(run: job.Run, number: int) -> dict[str, Any]:
    """What the job says of its start `number`, once that has reached a training step."""
    until(f"a training step of job {run.id}", lambda: len(run.attempts()) > number, 300, every_s=0.05)
    return run.attempts()[number]


def _import_torch(world: World) -> float:
    """Seconds of `import torch` with the cores that a pod of the job has, without Kubernetes."""
    found = targets.targets()
    stack = Path(found[world.stack].where)
    code = "import time; begin = time.perf_counter(); import torch; print(time.perf_counter() - begin)"
    engine.remove_container(CONTAINER)
    words = ["docker", "run", "--rm", "--name", CONTAINER, "--network", "none", "--cpus", "1"]
    words += ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"]
    words += ["--volume", f"{stack}:/opt/stack/{stack.name}:ro", found["base"].where]
    return float(output([*words, f"/opt/stack/{stack.name}/bin/python", "-c", code]))


def _program(program: str) -> int:
    """Bytes of a program's files."""
    folder = programs.folder(program)
    return sum((folder / file).stat().st_size for file in programs.PROGRAMS[program].files)


def _node(container: str) -> int:
    """Bytes that a node has written over its image, and into its volume."""
    written = output(["docker", "container", "inspect", "--size", "--format", "{{.SizeRw}}", container])
    used = output(
        ["docker", "exec", container, "du", "--summarize", "--one-file-system", "--block-size=1", "/var"]
    )
    return int(written) + int(used.split()[0])
