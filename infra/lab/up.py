"""`make cluster-up`: from whatever is there to a cluster that has trained a model.

Every phase looks first and does only what is missing, so that an interrupted run goes on where it was and a
second run changes nothing.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from infra import host, images
from infra.cluster import Cluster
from infra.errors import Failure, Mistake
from infra.lab import job, secrets, verify
from infra.lab.compose import Project
from infra.load import load_cluster
from infra.machine import read_machine
from infra.paths import CHECKOUT
from infra.progress import Step, console, step
from infra.render import render, write
from infra.show import headline

TIMEOUT_S = 240  # for all nodes to be healthy: a cold start takes 20 s here, a slow disk many times that


@dataclass
class Done:
    """What has been reached for which inputs; kept in build/<cluster>/state.json."""

    applied: str = ""  # hash of everything rendered and of the node image, once all nodes were healthy
    verified: bool = False  # whether the checks have passed since a container was last started
    submitted: str = ""  # the job that is to prove it, while it has not ended
    proved: str = ""  # the job that has completed on this cluster; stays until its volumes go

    @classmethod
    def load(cls, project: Project) -> "Done":
        try:
            return cls(**json.loads((project.folder / "state.json").read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            return cls()

    def save(self, project: Project) -> None:
        part = project.folder / ".state.json"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        part.replace(project.folder / "state.json")


def up(path: Path, script: str) -> None:
    """Bring the cluster of file `path` up and run the job file `script` on it once ('' for none)."""
    begin = time.monotonic()
    if script and not (CHECKOUT / script).is_file():
        raise Mistake(f"JOB={script}: no such file in the checkout; JOB= runs none")
    machine = read_machine()
    cluster = load_cluster(path, machine=machine)
    if cluster.place != "lab" or "slurm" not in cluster.schedulers:
        raise Mistake(
            f"{cluster.file}: only place: lab with Slurm can be started; make render writes its files"
        )
    project = Project(cluster.name)
    if _nothing_to_do(project, cluster, script):
        console.print(f"{cluster.name}: up, nothing to change ({time.monotonic() - begin:.1f} s)")
        return

    console.print(headline(cluster))
    with step("host") as this:
        host.ensure(this)
    with step("images") as this:
        built = images.ensure(["node", *_stacks(cluster)], this)
    with step("cluster") as this:
        done = _start(project, cluster, built["node"], this)
    if not done.verified:
        with step("verify") as this:
            verify.run(cluster, project, this)
        done.verified = True
        done.save(project)
    if script and not done.proved:
        with step("job") as this:
            run = _prove(project, cluster, script, done, this)
        _say_what_it_learned(run)
        done.proved = run.id
        done.save(project)
    console.print(
        'Next:  eval "$(make env)"     then   sbatch jobs/ddp.sbatch   squeue   sacct', markup=False
    )


def _prove(project: Project, cluster: Cluster, script: str, done: Done, this: Step) -> job.Run:
    """Run `script` to its end; the job of an earlier run that was interrupted is followed, not repeated."""
    run = job.find(project, done.submitted) if done.submitted else None
    if not run:
        run = job.submit(project, cluster.users[0].name, Path(script))
        done.submitted = run.id
        done.save(project)
    job.follow(project, run, this)
    this.did(_trained(run, script))
    done.submitted = ""
    done.save(project)
    return run


def restart(project: Project, this: Step) -> None:
    """Make every container anew (volumes stay) and wait until all are healthy."""
    log = project.folder / "logs" / "compose.log"
    project.compose("up", "--detach", "--force-recreate", log=log)
    wait_healthy(project, this)


def wait_healthy(project: Project, this: Step) -> None:
    """Wait until every container's own check passes. Raises Failure that names those that did not."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        nodes = project.containers()
        ready = [node.name for node in nodes if node.health == "healthy"]
        waiting = [node for node in nodes if node.health != "healthy"]
        if nodes and not waiting:
            return
        this.doing(f"{' '.join(ready)} ready, waiting for {' '.join(node.name for node in waiting)}")
        gone = [node for node in waiting if node.state == "exited"]
        if gone or time.monotonic() > deadline:
            names = ", ".join(f"{node.name} ({node.health or node.state})" for node in gone or waiting)
            raise Failure(f"not healthy: {names}\n  see: make logs NODE={(gone or waiting)[0].name}")
        time.sleep(0.5)


def _nothing_to_do(project: Project, cluster: Cluster, script: str) -> bool:
    done = Done.load(project)
    if not done.verified or (script and not done.proved):
        return False
    if not host.ready():
        return False
    tags = images.current(["node", *_stacks(cluster)])
    if tags is None or _digest(cluster, tags["node"]) != done.applied:
        return False
    nodes = project.containers()
    return bool(nodes) and all(node.health == "healthy" for node in nodes)


def _start(project: Project, cluster: Cluster, image: str, this: Step) -> Done:
    this.doing("writing its configuration")
    done = Done.load(project)
    applied = _digest(cluster, image)
    write(render(cluster), project.folder)
    fresh = secrets.ensure(cluster.name)
    (project.folder / ".env").write_text(f"NODE_IMAGE={image}\n")
    (CHECKOUT / "runs").mkdir(exist_ok=True)

    this.doing("starting its containers")
    before = {node.name: node.started for node in project.containers()}
    log = project.folder / "logs" / "compose.log"
    project.compose("up", "--detach", "--remove-orphans", *(["--force-recreate"] if fresh else []), log=log)
    wait_healthy(project, this)

    this.doing("accounts and limits")
    project.run("slurmctld", "scontrol", "reconfigure")
    apply_accounts(project)
    wait_for_slurm(project, cluster)
    after = {node.name: node.started for node in project.containers()}
    started = [name for name in after if after[name] != before.get(name)]
    done.verified = done.verified and done.applied == applied and not started
    done.applied = applied
    done.save(project)
    this.did(" · ".join(started) if started else "configuration applied, no container restarted")
    return done


def apply_accounts(project: Project) -> None:
    """Make the accounts, users, QOS and limits of the cluster file; what is there already stays."""
    project.run("slurmctld", "sh", "/etc/slipway/slurm/accounts")


def wait_for_slurm(project: Project, cluster: Cluster) -> None:
    """Wait until slurmctld has heard from every compute node. Raises Failure that names the silent ones."""
    wanted = {name for pool in cluster.pools for name in pool.nodes}
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        lines = project.run("login", "sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        states = dict(line.split() for line in lines)
        usable = {
            name for name, state in states.items() if state in {"idle", "mixed", "allocated", "completing"}
        }
        missing = wanted - usable
        if not missing:
            return
        if time.monotonic() > deadline:
            reasons = project.run("login", "sinfo", "-R", "-h", "-o", "%n: %E")
            raise Failure(f"Slurm cannot use {', '.join(sorted(missing))}: {reasons or states}")
        time.sleep(0.5)


def _stacks(cluster: Cluster) -> list[str]:
    return sorted({pool.stack.name for pool in cluster.pools if pool.stack})


def _digest(cluster: Cluster, image: str) -> str:
    content = json.dumps([render(cluster), image], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _trained(run: job.Run, script: str) -> str:
    summary = run.summary
    if not summary.get("bits_per_byte"):
        return f"{Path(script).stem}  job {run.id} completed"
    nodes = len(set(summary["hosts"]))
    got = summary["bits_per_byte"]["validation"]
    return (
        f"{Path(script).stem}  {nodes} nodes x {summary['world_size'] // nodes} rank"
        f"   step {summary['step']}/{summary['steps']}   {got:.2f} bits/byte"
    )


def _say_what_it_learned(run: job.Run) -> None:
    bits = run.summary.get("bits_per_byte")
    if not bits:
        return
    got, bigram = bits["validation"], bits["bigram"]
    if got >= bigram:
        raise Failure(
            f"job {run.id} completed but did not learn: {got:.2f} bits per byte on validation,"
            f" a bigram model has {bigram:.2f}\n  log: {run.output}"
        )
    console.print(
        f"Trained. {got:.2f} bits per byte on validation; a bigram model has {bigram:.2f}, so it learned."
    )
    seconds = job.since_start(run)
    first = f"From nothing to the first training step: {_minutes(seconds)}. " if seconds else ""
    console.print(f"{first}Report: runs/{run.id}/report.html")


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s" if seconds >= 60 else f"{seconds:.0f} s"
