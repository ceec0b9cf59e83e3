"""Apply a training job to the cluster as its user would, follow it to its end, fetch what it wrote."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import Job, World, jobs
from infra.proof import run as job
from infra.render.launchers import UID

DEFAULT = "k8s/pytorchjob.yaml"  # what proves a cluster when nothing else is asked for
ASKED = "nodes,pods,pytorchjobs.kubeflow.org,workloads.kueue.x-k8s.io,events"


def world(kind: Kind) -> World:
    """Nodes, pods, jobs, Kueue's workloads and events of the whole cluster, by one question."""
    return World.of(kind.get(ASKED, "--all-namespaces"))


def described(file: Path, kind: Kind) -> tuple[str, str]:
    """Namespace and name of the PyTorchJob in a file. Raises Mistake when there is none, or more than one."""
    found: list[dict[str, Any]] = [
        each
        for each in YAML(typ="safe").load_all(file.read_text())
        if isinstance(each, dict) and each.get("kind") == "PyTorchJob"
    ]
    if len(found) != 1:
        raise Mistake(f"{file}: {len(found)} PyTorchJobs; a job file has one")
    metadata = found[0]["metadata"]
    return metadata.get("namespace", namespace(kind)), metadata["name"]


def namespace(kind: Kind) -> str:
    """Where the user's jobs are when no other is named: the namespace of their first account."""
    return kind.cluster.users[0].accounts[0]


def find(kind: Kind, where: str, name: str) -> Job | None:
    """The job, when the cluster has it."""
    found = [each for each in jobs(world(kind)) if (each.namespace, each.name) == (where, name)]
    return found[0] if found else None


def start(kind: Kind, file: Path) -> job.Run:
    """`kubectl apply -f FILE`. A job of that name that waits or runs is followed; one that ended goes first.

    Raises Failure with the API server's reason when it refuses the job.
    """
    where, name = described(file, kind)
    there = find(kind, where, name)
    if there and there.state not in job.UNFINISHED:
        kind.kubectl("delete", "pytorchjob", name, "--namespace", where, "--wait")
        there = None
    since = time.time()
    if not there:
        kind.kubectl("apply", "--filename", file)
        since = time.time()
    return run_of(kind, name, since=0 if there else since)


def run_of(kind: Kind, name: str, *, since: float = 0) -> job.Run:
    """The run folder of the job `name`: its pods write into a folder of this machine."""
    return job.Run(name, runs=kind.runs, since=since, output=f"make results JOB={name}")


def follow(kind: Kind, run: job.Run, where: str, this: Any = None, *, timeout_s: float = 1800) -> job.Run:
    """Wait for the job's end, showing its steps. Raises Failure when it did not complete."""
    return job.watch(lambda: refresh(kind, run, where), run, this, timeout_s=timeout_s)


def refresh(kind: Kind, run: job.Run, where: str) -> None:
    """Ask for the job's state and what it waits for. An API server that restarts is asked again later."""
    try:
        found = find(kind, where, run.id)
    except Failure as failure:
        run.reason = f"the API server does not answer: {failure}"
        return
    if not found:
        raise Failure(f"job {run.id} is gone from namespace {where}: someone has deleted it")
    run.state, run.reason = found.state, found.waits


def results(kind: Kind, name: str) -> Path:
    """Copy run folder and pods' logs to runs/<name> of the checkout; returns it. Raises Mistake for no such run.

    A job that runs is followed first, its steps as they come. An earlier run's folder of that name is moved
    aside, as the job itself does where it writes.
    """
    name = Path(name).name.split(".", 1)[0]
    there = [each for each in jobs(world(kind)) if each.name == name]
    if there and there[-1].state in job.UNFINISHED:
        _stream(kind, there[-1])
        there = [each for each in jobs(world(kind)) if each.name == name]
    source = kind.runs / name
    if not source.is_dir():
        known = sorted(path.name for path in kind.runs.glob("*/summary.json"))
        raise Mistake(
            f"JOB={name}: no run folder of that name; there are {', '.join(known) or 'none'}"
            + (f"\n  the job waits: {there[-1].waits}" if there and there[-1].waits else "")
        )
    target = CHECKOUT / "runs" / name
    if target.exists() and not _same(source, target):
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(target.stat().st_mtime))
        target.rename(target.with_name(f"{name}-until-{stamp}"))
    shutil.copytree(source, target, dirs_exist_ok=True)
    for each in there[-1:]:
        for pod in each.pods:
            _log(kind, each.namespace, pod, target / "logs" / f"{pod}.log")
    return target


def _same(one: Path, other: Path) -> bool:
    """Whether two folders are of one run: the starts of the older copy are those of the newer one."""

    def starts(folder: Path) -> list[str]:
        file = folder / "attempts.jsonl"
        return file.read_text().splitlines()[:1] if file.exists() else []

    return starts(one) == starts(other)


def _log(kind: Kind, where: str, pod: str, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    try:
        file.write_text(kind.kubectl("logs", "--namespace", where, pod) + "\n")
    except Failure as failure:  # its node is dead, or it has not started
        file.write_text(f"{failure}\n")


def _stream(kind: Kind, there: Job, every_s: float = 1) -> None:
    """Print each step of a running job as it comes, and what the job waits for, until its end."""
    run = run_of(kind, there.name)
    shown, said = 0, ""
    while True:
        refresh(kind, run, there.namespace)
        if run.reason != said:
            said = run.reason
            print(f"{run.id}: {said or run.state.lower()}", flush=True)
        for line in run.metrics():
            if line["step"] > shown and (line["step"] % 20 == 0 or not shown):
                print(job.progress(line), flush=True)
                shown = line["step"]
        if run.state not in job.UNFINISHED:
            print(f"{run.id}: {run.state.lower()} {run.reason}".rstrip(), flush=True)
            return
        time.sleep(every_s)


def summary(folder: Path) -> dict[str, Any]:
    """What a run says of itself at its end; empty while it has not ended."""
    file = folder / "summary.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def own(kind: Kind, base: str) -> None:
    """Make the folder of runs, which the pods' user can write into; `base` is an image with a chown."""
    kind.runs.mkdir(parents=True, exist_ok=True)
    if kind.runs.stat().st_uid == UID:
        return
    # This person may not give files away; the engine may.
    words = ["docker", "run", "--rm", "--init", "--network", "none", "--volume", f"{kind.runs}:/runs", base]
    output([*words, "chown", "-R", f"{UID}:{UID}", "/runs"])
