"""Apply a training job to the cluster as its user would, follow it to its end, fetch what it wrote."""

import json
import shutil
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.places.kind import manifests
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import Job, World, folder, jobs, state
from infra.places.kind.facts import name as name_of
from infra.places.kind.manifests import Manifest
from infra.places.kind.objects import (
    EVENTS,
    JOBS,
    NODES,
    PODS,
    WORKLOADS,
    NotYet,
    Object,
    Resource,
    Unanswered,
    Undefined,
)
from infra.places.kind.view import View, gone
from infra.proof import run as job
from infra.render.launchers import UID

ASKED = (NODES, PODS, JOBS, WORKLOADS, EVENTS)  # what says how a job is
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
KUBECTL = "kubectl"  # in whose name jobs are applied, so that their users go on with `kubectl apply`


@dataclass(frozen=True)
class Wanted:
    """A file with one PyTorchJob, and whatever else it has."""

    file: str
    namespace: str
    job: Manifest
    others: list[Manifest]

    @property
    def _body(self) -> Object:
        assert isinstance(self.job.body, dict), "read from a file"
        return self.job.body

    def annotated(self) -> Manifest:
        """The job with the note that kubectl looks for; the API server fills it in."""
        body = deepcopy(self._body)
        body["metadata"]["annotations"] = {**(body["metadata"].get("annotations") or {}), LAST_APPLIED: "{}"}
        return self.job._replace(body=body)

    def is_that(self, there: Object) -> bool:
        """Whether a job of the cluster was made from this same text, or from one with a name for each start."""
        if not self.job.name:
            return bool(there["metadata"].get("generateName") == self._body["metadata"]["generateName"])
        noted = json.loads(there["metadata"].get("annotations", {}).get(LAST_APPLIED, "{}"))
        return _plain(noted, self.namespace) == _plain(self._body, self.namespace)


def _plain(each: Object, namespace: str) -> Object:
    """Without what kubectl adds to what it notes."""
    metadata = {"namespace": namespace, **each.get("metadata", {})}
    return {**each, "metadata": {key: value for key, value in metadata.items() if value not in (None, {})}}


def world(kind: Kind) -> World:
    """Nodes, pods, jobs, Kueue's workloads and events of the whole cluster. Raises Unanswered, NotYet or Refused."""
    found: list[Object] = []
    for asked in ASKED:
        with suppress(Undefined):  # its operator was never deployed, and so there are none
            found += kind.api.get(asked)
    return World.of(found)


def described(file: Path, kind: Kind) -> Wanted:
    """What a job file asks for. Raises Mistake when it is none, or has more than one PyTorchJob."""
    shown = file.relative_to(CHECKOUT) if file.is_relative_to(CHECKOUT) else file
    found = manifests.read(file, str(shown))
    there = [each for each in found if Resource.of(each).name == JOBS.name]
    if len(there) != 1:
        raise Mistake(f"{shown}: {len(there)} PyTorchJobs; a job file has one")
    (job,) = there
    if Resource.of(job) != JOBS:
        raise Mistake(f"{shown}: apiVersion: {job['apiVersion']} is not {JOBS.version}")
    others = [Manifest.of(each) for each in found if each is not job]
    return Wanted(str(shown), job["metadata"].get("namespace") or namespace(kind), Manifest.of(job), others)


def namespace(kind: Kind) -> str:
    """Where the user's jobs are when no other is named: the namespace of their first account."""
    return kind.cluster.users[0].accounts[0]


def find(kind: Kind, where: str, name: str) -> Job | None:
    """The job, when the cluster has it."""
    found = [each for each in jobs(world(kind)) if (each.namespace, each.name) == (where, name)]
    return found[0] if found else None


def start(kind: Kind, wanted: Wanted, *, submitted: str = "") -> job.Run:
    """`kubectl apply -f FILE`, or `create` where the file leaves the name to the API server.

    A job that waits or runs is followed when it is this one, as after a Ctrl-C; one that has ended goes first.
    `submitted`: what an earlier run has started. Raises Failure with the API server's reason when it refuses the
    job, or when another job has its name.
    """
    api, where, name = kind.api, wanted.namespace, wanted.job.name or submitted
    there = api.read(JOBS, name, where) if name else None
    if there:
        this, now = wanted.is_that(there), state(there)
        if this and (now in job.UNFINISHED or (name == submitted and now == "COMPLETED")):
            return _run(kind, there)
        if now in job.UNFINISHED:
            raise Failure(
                f"{wanted.file}: another job {where}/{name} is {now.lower()}: wait for its end, give this one"
                f" another name, or run: kubectl delete pytorchjob {name} --namespace {where}"
            )
        if wanted.job.name:
            api.delete(JOBS, name, where)
            gone(api, JOBS, where, names=[name], timeout_s=300)
    api.apply(wanted.others, namespace=where)
    if wanted.job.name:
        (made,) = api.apply([wanted.annotated()], namespace=where, manager=KUBECTL)
    else:
        made = api.create(wanted.job, namespace=where)
    return _run(kind, made, since=time.time())


def _run(kind: Kind, made: Object, *, since: float = 0) -> job.Run:
    """The run of a job of the cluster, whose arguments say which folder it writes."""
    run = run_of(kind, name_of(made), since=since)
    run.called = folder(made)
    return run


def run_of(kind: Kind, name: str, *, since: float = 0) -> job.Run:
    """The run folder of the job `name`: its pods write into a folder of this machine."""
    return job.Run(name, runs=kind.runs, since=since, output=f"make results JOB={name}")


def follow(kind: Kind, run: job.Run, where: str, this: Any = None, *, timeout_s: float = 1800) -> job.Run:
    """Wait for the job's end, showing its steps. Raises Failure when it did not complete."""
    with View(kind.api, *ASKED) as seen:
        # asking the view costs nothing, so it is asked at every look
        return job.watch(
            lambda: refresh(seen, run, where), run, this, timeout_s=timeout_s, every_s=0, nearly_s=0
        )


def refresh(seen: View, run: job.Run, where: str) -> None:
    """Look at the job's state and at what it waits for. An API server that restarts is waited for."""
    try:
        there = World.of(each for asked in ASKED for each in seen.of(asked))
    except (Unanswered, NotYet) as failure:
        run.reason = str(failure)
        return
    found = [each for each in jobs(there) if (each.namespace, each.name) == (where, run.id)]
    if not found:
        raise Failure(f"job {run.id} is gone from namespace {where}: someone has deleted it")
    run.state, run.reason = found[0].state, found[0].waits


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
    source = kind.runs / (there[-1].folder if there else name)
    if not source.is_dir():
        known = sorted(path.parent.name for path in kind.runs.glob("*/summary.json"))
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
        file.write_text(kind.api.log(pod, where) + "\n")
    except Failure as failure:  # its node is dead, or it has not started
        file.write_text(f"{failure}\n")


def _stream(kind: Kind, there: Job, every_s: float = 1) -> None:
    """Print each step of a running job as it comes, and what the job waits for, until its end."""
    run = run_of(kind, there.name)
    run.called = there.folder
    shown, said = 0, ""
    with View(kind.api, *ASKED) as seen:
        while True:
            refresh(seen, run, there.namespace)
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
            seen.wait(every_s)


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
