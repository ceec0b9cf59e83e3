"""`make cluster-up`: from whatever is there to a cluster that has trained a model.

Every phase looks first and does only what is missing, so that an interrupted run goes on where it was and a
second run changes nothing.
"""

import hashlib
import json
import time

from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.base.progress import Step, console, step
from infra.host import docker
from infra.images import targets
from infra.model.cluster import Cluster
from infra.model.show import headline
from infra.places import secrets
from infra.places.lab.compose import Project
from infra.places.verbs import next_line
from infra.proof import prove, verify
from infra.render import render, write

TIMEOUT_S = 240  # for all nodes to be healthy: a cold start takes 20 s here, a slow disk many times that


def up(cluster: Cluster, script: str) -> None:
    """Bring a lab up and run the job file `script` on it once ('' for none)."""
    begin = time.monotonic()
    if "slurm" not in cluster.schedulers:
        raise Mistake(f"{cluster.file}: a lab runs Slurm; make render writes the other files")
    project = Project(cluster.name)
    if _nothing_to_do(project, cluster, script):
        console.print(f"{cluster.name}: up, nothing to change ({time.monotonic() - begin:.1f} s)")
        return

    console.print(headline(cluster))
    with step("host") as this:
        docker.ensure(this)
    with step("images") as this:
        built = targets.ensure(["node", *_stacks(cluster)], this)
    with step("cluster") as this:
        done = _start(project, cluster, built["node"], this)
    if not done.verified:
        with step("verify") as this:
            verify.run(cluster, this)
        done.verified = True
        done.save(project.folder)
    if script and not done.proved:
        with step("job") as this:
            run = prove.prove(project, cluster.user, script, done, project.folder, this)
        prove.say_what_it_learned(run)
        done.proved = run.id
        done.save(project.folder)
    console.print(next_line(cluster.file, "sbatch jobs/ddp.sbatch", "squeue", "sacct"))


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
    done = prove.Done.load(project.folder)
    if not done.verified or (script and not done.proved):
        return False
    if not docker.ready():
        return False
    tags = targets.current(["node", *_stacks(cluster)])
    if tags is None or _digest(cluster, tags["node"]) != done.applied:
        return False
    nodes = project.containers()
    return bool(nodes) and all(node.health == "healthy" for node in nodes)


def _start(project: Project, cluster: Cluster, image: str, this: Step) -> prove.Done:
    this.doing("writing its configuration")
    done = prove.Done.load(project.folder)
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
    done.save(project.folder)
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
