"""`make cluster-up` of a cluster file with Kubernetes: from whatever is there to one that has trained a model.

Every phase looks first and does only what is missing, so that an interrupted run goes on where it was and a
second run changes nothing.
"""

import hashlib
import json
import time
from pathlib import Path

from infra.base.errors import Failure
from infra.base.files import readable
from infra.base.once import content_hash
from infra.base.paths import CHECKOUT
from infra.base.progress import Step, console, step
from infra.host import docker, engine
from infra.images import programs, targets
from infra.model.cluster import Cluster
from infra.model.show import headline
from infra.places.kind import config, deploy, verify
from infra.places.kind import job as jobs
from infra.places.kind.cluster import Kind, kubectl
from infra.places.kind.done import Done
from infra.places.kind.facts import jobs as listed
from infra.places.kind.facts import name, ready, reason
from infra.places.kind.objects import NODES, Undefined
from infra.places.kind.view import View
from infra.places.verbs import KUBERNETES_JOB, next_line
from infra.proof import prove
from infra.proof import run as job
from infra.render import render, write

TIMEOUT_S = 240  # for all nodes to be ready: a minute here, a slow disk many times that
PROGRAMS = ("kubernetes", "kind", "coredns", "training-operator", "kueue", "local-path-provisioner")


def up(cluster: Cluster, manifest: str) -> None:
    """Bring the cluster up and run the job file `manifest` on it once ('' for none)."""
    begin = time.monotonic()
    kind = Kind(cluster)
    if manifest:
        jobs.described(CHECKOUT / manifest, kind)  # a file without a job is told of before anything starts
    if _nothing_to_do(kind, manifest):
        console.print(f"{cluster.name}: up, nothing to change ({time.monotonic() - begin:.1f} s)")
        return

    console.print(headline(cluster))
    # Programs are compiled while the stack is downloaded: one needs cores, the other the network.
    with programs.in_background(PROGRAMS) as building:
        with step("host") as this:
            docker.ensure(this)
        with step("stack") as this:
            built = targets.ensure(["base", *cluster.stacks], this)
        with step("programs") as this:
            missing = [program for program in PROGRAMS if not programs.folder(program).is_dir()]
            building.wait(this)
            versions = f"Kubernetes {programs.version('kubernetes')} · Kueue {programs.version('kueue')}"
            this.did(f"{versions:<48} {'built' if missing else 'unchanged'}", changed=bool(missing))
    with step("images") as this:
        built |= targets.ensure(["kind-node"], this)
    with step("cluster") as this:
        done = _start(kind, built, this)
    if done.applied != _applied(kind) or deploy.missing(kind, done.services):
        with step("deploy") as this:
            done.services = deploy.deploy(kind, this)
        done.applied, done.verified = _applied(kind), False
        done.save(kind.folder)
    if not done.verified:
        with step("verify") as this:
            verify.verify(kind, this)
        done.verified = True
        done.save(kind.folder)
    if manifest and not done.proved:
        with step("job") as this:
            run = _prove(kind, CHECKOUT / manifest, done, this)
        prove.say_what_it_learned(run)
        done.proved = run.id
        done.save(kind.folder)
    console.print(next_line(cluster.file, f"kubectl apply -f {KUBERNETES_JOB}"))


def _nothing_to_do(kind: Kind, manifest: str) -> bool:
    done = Done.load(kind.folder)
    if not done.verified or (manifest and not done.proved) or not kind.kubeconfig.is_file():
        return False
    if not docker.ready():
        return False
    tags = targets.current(["kind-node", *kind.cluster.stacks])
    if tags is None or _created(kind, tags["kind-node"]) != done.created or _applied(kind) != done.applied:
        return False
    there = kind.containers()
    if len(there) != 1 + len(kind.workers) or any(container.state != "running" for container in there):
        return False
    try:
        return not any(reason(node) for node in kind.api.get(NODES)) and not deploy.missing(
            kind, done.services
        )
    except Failure:
        return False


def _start(kind: Kind, built: dict[str, str], this: Step) -> Done:
    """Containers and nodes: made when there are none or other ones are wanted, started when they stand still."""
    this.doing("writing its configuration")
    write(render(kind.cluster), kind.folder)
    _link(kind)
    jobs.own(kind, built["base"])
    readable(CHECKOUT / "jobs")  # which the pods' user, who is another one, has mounted
    done = Done.load(kind.folder)
    wanted = _created(kind, built["kind-node"])
    if done.created == wanted and _whole(kind):
        started = _restart(kind)
        if started:
            done.verified = False
            done.save(kind.folder)
    else:
        _keep_running_jobs(kind, done)
        Done().save(kind.folder)
        kind.create(built["kind-node"], this)
        config.set_namespace(kind.kubeconfig, jobs.namespace(kind))
        done = Done(created=wanted)
        done.save(kind.folder)
        started = [kind.called(container.name) for container in kind.containers()]
    _wait_ready(kind, this, network=bool(done.applied))
    this.did(" · ".join(started) if started else "all nodes run", changed=bool(started))
    return done


def _link(kind: Kind) -> None:
    """build/<cluster>/kubectl, which bin/kubectl runs."""
    link = kind.folder / "kubectl"
    if not link.is_symlink() or link.readlink() != kubectl():
        link.unlink(missing_ok=True)
        link.symlink_to(kubectl())


def _whole(kind: Kind) -> bool:
    """Whether every node has its container; one that was removed cannot be repaired."""
    names = {container.name for container in kind.containers()}
    return kind.kubeconfig.is_file() and names == {kind.control_plane, *kind.workers.values()}


def _restart(kind: Kind) -> list[str]:
    """Start the containers that stand still; what people call them."""
    still = [container.name for container in kind.containers() if container.state != "running"]
    for container in still:
        engine.start(container)
    return [kind.called(container) for container in still]


def _keep_running_jobs(kind: Kind, done: Done) -> None:
    """Raise Failure when the cluster has to be made anew, and jobs that have not ended would go with it."""
    if not done.created or not kind.containers() or not kind.answers():
        return
    try:
        there = [each.name for each in listed(jobs.world(kind)) if each.state in job.UNFINISHED]
    except Undefined:  # its operators are not there yet, and so neither are jobs
        return
    if there:
        raise Failure(
            f"the cluster has to be made anew, and {', '.join(there)} would go with it: wait until it has ended,"
            f" or run: make cluster-down CLUSTER={kind.cluster.file}"
        )


def _wait_ready(kind: Kind, this: Step, *, network: bool) -> None:
    """Wait until every node has joined, and is ready once its pod network was deployed."""
    with View(kind.api, NODES) as seen:

        def missing() -> str:
            nodes = {name(node): node for node in seen.of(NODES)}
            return "; ".join(
                f"{kind.called(worker)}: {reason(nodes[worker]) if worker in nodes else 'has not joined'}"
                for worker in (kind.control_plane, *kind.workers.values())
                if worker not in nodes or (network and not ready(nodes[worker]))
            )

        try:
            seen.until(missing, TIMEOUT_S, what="nodes", step=this)
        except Failure as failure:
            raise Failure(
                f"{failure}\n  see: make logs NODE=control-plane CLUSTER={kind.cluster.file}"
            ) from None


def _prove(kind: Kind, manifest: Path, done: Done, this: Step) -> job.Run:
    """Run the job to its end; that of an earlier run that was interrupted is followed, not repeated."""
    wanted = jobs.described(manifest, kind)
    run = jobs.start(kind, wanted, submitted=done.submitted)
    done.submitted = run.id
    done.save(kind.folder)
    jobs.follow(kind, run, wanted.namespace, this)
    this.did(prove.trained(run, str(manifest)))
    done.submitted = ""
    return run


def _created(kind: Kind, image: str) -> str:
    """Changes when the cluster must be made anew."""
    return _digest([render(kind.cluster)["kind.yaml"], image])


def _applied(kind: Kind) -> str:
    """Changes with everything that is applied to the cluster."""
    files = {path: text for path, text in render(kind.cluster).items() if path.startswith("kubernetes/")}
    content = content_hash(CHECKOUT, [CHECKOUT / "k8s"])
    return _digest([files, content, *(programs.folder(program).name for program in PROGRAMS)])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
