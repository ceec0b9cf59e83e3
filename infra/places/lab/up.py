"""`make cluster-up`: from whatever is there to a cluster that has trained a model.

Every phase looks first and does only what is missing, so that an interrupted run goes on where it was and a
second run changes nothing.
"""

import hashlib
import json
import time

from infra.base import files
from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.base.progress import Step, console, step
from infra.base.wait import settled
from infra.host import docker, engine
from infra.images import targets
from infra.model import hostlist, nodestate
from infra.model.cluster import Cluster
from infra.model.show import headline
from infra.places import owner, secrets
from infra.places.lab import network
from infra.places.lab.compose import SERVICES, Node, Project
from infra.places.lab.down import remove
from infra.places.verbs import next_line
from infra.proof import prove, verify
from infra.render import render, write

TIMEOUT_S = 240  # for all nodes to be healthy: a cold start takes 20 s here, a slow disk many times that
UNITS_S = 60  # for a unit that failed, or a question that did, to go well after all


def up(cluster: Cluster, script: str) -> None:
    """Bring a lab up and run the job file `script` on it once ('' for none)."""
    begin = time.monotonic()
    if "slurm" not in cluster.schedulers:
        raise Mistake(f"{cluster.file}: a lab runs Slurm; make render writes the other files")
    project = Project(cluster.name)
    if _nothing_to_do(project, cluster, script):
        console.print(f"{cluster.name}: up, nothing to change ({time.monotonic() - begin:.1f} s)")
        say_who_is_kept(project.slurm_nodes(), cluster)
        return
    _bring_up(project, cluster, script)
    console.print(next_line(cluster.file, "sbatch jobs/ddp.sbatch", "squeue", "sacct"))


def _bring_up(project: Project, cluster: Cluster, script: str) -> None:
    console.print(headline(cluster))
    with step("host") as this:
        docker.ensure(this)
    with step("images") as this:
        built = targets.ensure(["node", *cluster.stacks], this)
    with step("cluster") as this:
        done = _start(project, cluster, built["node"], this)
    if not done.verified:
        with step("verify") as this:
            verify.run(cluster, this)
        done.verified = True
        done.save(project.folder)
    kept = say_who_is_kept(project.slurm_nodes(), cluster)
    if not script or done.proved:
        return
    if kept and not can_start(project, cluster.user, script):
        console.print(f"Not proved: {script} does not start without them; let them, and type this again.")
        return
    with step("job") as this:
        run = prove.prove(project, cluster.user, script, done, project.folder, this)
    prove.say_what_it_learned(run)
    done.proved = run.id
    done.save(project.folder)


def restart(project: Project, this: Step) -> None:
    """Make every container anew (volumes stay) and wait until all are healthy."""
    log = project.folder / "logs" / "compose.log"
    project.compose("up", "--detach", "--force-recreate", log=log)
    wait_healthy(project, this)


def wait_healthy(project: Project, this: Step) -> None:
    """Wait until every container's own check passes. Raises Failure that names those that did not.

    A unit that failed while its neighbour was starting is started again, and not judged by that.
    """

    def look() -> str:
        nodes = project.containers()
        waiting = [node for node in nodes if node.health != "healthy"]
        gone = [node for node in waiting if node.state in ("exited", "dead")]
        if gone:
            raise Failure(_not_healthy(gone))
        return " ".join(node.name for node in waiting) if nodes else "its containers"

    def late(_: str) -> str:
        return _not_healthy([node for node in project.containers() if node.health != "healthy"])

    settled(look, TIMEOUT_S, step=this, late=late)
    settled(lambda: " ".join(_start_failed(project)), UNITS_S, every_s=1, step=this)


def _not_healthy(nodes: list[Node]) -> str:
    names = ", ".join(f"{node.name} ({node.health or node.state})" for node in nodes)
    return f"not healthy: {names}\n  see: make logs NODE={nodes[0].name if nodes else 'slurmctld'}"


def _start_failed(project: Project) -> list[str]:
    """Start the units that have failed; their names, with those of their nodes."""
    found = []
    for node in project.containers():
        listed = project.run(node.name, "systemctl", "--failed", "--plain", "--no-legend")
        units = [line.split()[0] for line in listed.splitlines()]
        if units:
            project.run(node.name, "systemctl", "reset-failed", *units)
            project.run(node.name, "systemctl", "start", "--no-block", *units)
        found += [f"{unit} on {node.name}" for unit in units]
    return found


def _nothing_to_do(project: Project, cluster: Cluster, script: str) -> bool:
    done = prove.Done.load(project.folder)
    if not done.verified or (script and not done.proved):
        return False
    if not docker.ready():
        return False
    tags = targets.current(["node", *cluster.stacks])
    if tags is None or _digest(cluster, tags["node"]) != done.applied:
        return False
    nodes = project.containers()
    if not nodes or any(node.health != "healthy" for node in nodes):
        return False
    try:
        return not nodestate.silent(cluster.nodes, project.slurm_nodes())
    except Failure:  # the controller does not answer
        return False


def _start(project: Project, cluster: Cluster, image: str, this: Step) -> prove.Done:
    this.doing("writing its configuration")
    owner.refuse_others(cluster)  # once more: the engine, and with it containers, may have started just now
    done = prove.Done.load(project.folder)
    applied = _digest(cluster, image)
    write(render(cluster), project.folder)
    fresh = secrets.ensure(cluster.name)
    files.put(project.folder / ".env", f"NODE_IMAGE={image}\n")
    (CHECKOUT / "runs").mkdir(exist_ok=True)

    this.doing("starting its containers")
    verified = done.verified and done.applied == applied
    # Until all of it is done: a run that is killed now may have started containers that nobody has looked at.
    done.verified, done.applied = False, ""
    done.save(project.folder)
    before = {node.name: node.started for node in project.containers()}
    _compose_up(project, cluster, anew=bool(fresh))
    wait_healthy(project, this)

    this.doing("accounts and limits")
    patiently(project, "scontrol", "reconfigure")
    apply_accounts(project)
    wait_for_slurm(project, cluster, this)
    after = {node.name: node.started for node in project.containers()}
    started = [name for name in after if after[name] != before.get(name)]
    if started:
        wait_for_a_job(project, cluster, this)
    done.verified, done.applied = verified and not started, applied
    done.save(project.folder)
    this.did(" · ".join(started) if started else "configuration applied, no container restarted")
    return done


def _compose_up(project: Project, cluster: Cluster, *, anew: bool) -> None:
    """Have Compose start what is missing or another one, each at the address that it keeps."""
    there = project.network()
    if there and not network.fixed(there):  # an earlier version's
        remove(project, volumes=False)
        there = None
    words = ["up", "--detach", "--remove-orphans", *(["--force-recreate"] if anew else [])]
    for tries_left in (2, 1, 0):
        _remove_renamed(project)
        network.write(project.folder, [*SERVICES, *cluster.nodes], there, f"{project.name}-asks")
        try:
            project.compose(*words, log=project.folder / "logs" / "compose.log")
        except Failure as failure:
            # another network may have been given the range between our question and Compose's
            if "overlaps" not in str(failure) or there or not tries_left:
                raise
            continue
        if not _renamed(project):
            return
        there = project.network()
    raise Failure(f"not called as they should be: {', '.join(_renamed(project))}; run: make cluster-down")


def _renamed(project: Project) -> list[str]:
    """Containers under another name than their node's.

    Compose renames what it replaces. A run that was killed just then leaves it so, and Compose itself would go on
    with it; but no node is found by such a name.
    """
    return [node.container for node in project.containers() if node.container != project.container(node.name)]


def _remove_renamed(project: Project) -> None:
    for container in _renamed(project):
        engine.remove_container(container)


def apply_accounts(project: Project) -> None:
    """Make the accounts, users, QOS and limits of the cluster file; what is there already stays."""
    patiently(project, "sh", "/etc/slipway/slurm/accounts")


def patiently(project: Project, *words: str) -> None:
    """Run `words` on the controller, again where they fail: it tells slurmdbd what it has after it has started."""

    def look() -> str:
        try:
            project.run("slurmctld", *words)
        except Failure as failure:
            return str(failure)
        return ""

    settled(look, UNITS_S, every_s=1, late=lambda said: said)


def wait_for_slurm(project: Project, cluster: Cluster, this: Step) -> None:
    """Wait until slurmctld has heard from every compute node. Raises Failure that names the silent ones."""
    settled(
        lambda: " ".join(node.name for node in nodestate.silent(cluster.nodes, project.slurm_nodes())),
        TIMEOUT_S,
        step=this,
        late=lambda names: f"Slurm cannot use {names}: {_why(project, cluster)}",
    )


def _why(project: Project, cluster: Cluster) -> str:
    return "; ".join(node.why for node in nodestate.silent(cluster.nodes, project.slurm_nodes()))


def wait_for_a_job(project: Project, cluster: Cluster, this: Step) -> None:
    """Wait until a job has run on every node that is idle: that slurmctld hears from them does not say so.

    Raises Failure with what srun said last.
    """
    said = ""

    def look() -> str:
        nonlocal said
        known = project.slurm_nodes()
        for partition in cluster.spec.partitions:
            names = [name for pool in cluster.pools if pool.partition == partition for name in pool.nodes]
            idle = [name for name in names if name in known and known[name].plain == "idle"]
            words = ["timeout", "30", "srun", "--quiet", f"--partition={partition}", f"--nodes={len(idle)}"]
            words += [f"--nodelist={','.join(idle)}", "--immediate=5", "--time=1", "--job-name=slipway"]
            try:
                if idle:
                    project.run("slurmctld", *words, "true")
            except Failure as failure:
                said = str(failure)
                return f"a job to start on {hostlist.compress(idle)}"
        return ""

    settled(look, TIMEOUT_S, step=this, late=lambda what: f"still waiting for {what}: {said}")


def say_who_is_kept(known: dict[str, nodestate.Node], cluster: Cluster) -> list[nodestate.Node]:
    """Tell of the nodes that someone keeps jobs away from, which is theirs to say; returns them."""
    kept = nodestate.kept(cluster.nodes, known)
    for node in kept:
        console.print(f"  {node.why}")
    return kept


def can_start(project: Project, user: str, script: str) -> bool:
    """Whether Slurm could start the job file `script` with the nodes that it may use now."""
    try:
        project.run("login", "sbatch", "--test-only", script, user=user, cwd=project.workdir)
    except Failure:
        return False
    return True


def _digest(cluster: Cluster, image: str) -> str:
    content = json.dumps([render(cluster), image], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
