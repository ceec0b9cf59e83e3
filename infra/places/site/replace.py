"""`make replace NODE=...`: another machine in the place of one that is broken, under the same name.

The node is drained; one that is dead is given up by Slurm, which queues its jobs again. Pulumi makes the new
machine, Ansible configures it alone, Slurm takes it back. No other machine is touched. A run that was interrupted
goes on: build/<cluster>/replace.json says which machine is to go.
"""

import json
import time

from infra.base import files, lock
from infra.base.errors import Failure, Mistake
from infra.base.progress import Step, console, step
from infra.model import hostlist
from infra.model.cluster import Cluster
from infra.model.shape import parts
from infra.places.site import release, retire, ssh
from infra.places.site.site import Machine, Site
from infra.places.site.steps import WAIT_S, configure, prepare, provision, report

REASON = "slipway: is replaced"
KEEPS = {"db": "the accounting database", "slurmdbd": "the accounting service", "slurmctld": "Slurm's state"}
READY = ("IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED", "RESERVED", "MAINT")


def machine(cluster: Cluster, node: str, *, requeue: bool) -> None:
    """Replace machine `node`. `requeue`: its jobs are put back into the queue, instead of waited for."""
    cluster = release.held(cluster)
    site = Site(cluster)
    _refuse(site, node)
    prepare(cluster)
    with lock.held(site.folder / "cluster.lock", f"cluster '{site.name}'"):
        now = again(site, node, requeue=requeue)
    console.print(f"{cluster.name}: {node} is a new machine, {now.hardware} at {now.address}")


def again(site: Site, node: str, *, requeue: bool) -> Machine:
    """The same for who holds the cluster's lock already; returns the new machine."""
    there = _machine(site, node)
    old = _begun(site, node) or there.id
    compute = node in site.cluster.nodes
    if there.id == old:
        if compute:
            with step("drain") as this:
                _drain(site, node, this, requeue=requeue)
        _note(site, node, old)
        with step("machines") as this:
            ssh.hang_up(site, node)  # the connection to the old machine
            provision(site, this, anew=node)
    site = Site(site.cluster)
    with step("configure") as this:
        played = configure(site, this, limit=[node])
    report(site, played)
    now = _machine(site, node)
    if compute:
        with step("slurm") as this:
            _take_back(site, now, moved=now.address != there.address, this=this)
    _forget_begun(site)
    return now


def _refuse(site: Site, node: str) -> None:
    """Raise Mistake when there is no such machine, or when more than it would be lost."""
    names = [machine.name for machine in site.machines]
    if node not in names:
        raise Mistake(f"NODE={node or '?'}: cluster '{site.name}' has {hostlist.compress(tuple(names))}")
    held = [KEEPS[part] for part in parts(site.cluster).get(node, ()) if part in KEEPS]
    if held:
        raise Mistake(
            f"NODE={node}: it holds {' and '.join(held)} on its own disk, which would be lost;"
            " repair it, or move that first"
        )
    if node not in [*site.cluster.nodes, *site.cluster.login]:
        raise Mistake(f"NODE={node}: it is no longer in {site.cluster.file}; cluster-up removes it")


def _machine(site: Site, node: str) -> Machine:
    return next(machine for machine in site.machines if machine.name == node)


def _drain(site: Site, node: str, this: Step, *, requeue: bool) -> None:
    state = retire.states(site).get(node, "")
    moved = retire.drain(site, [node], this, requeue=requeue, reason=REASON)
    words = "gone already" if not state or state.endswith("*") else "empty"
    this.did(f"{node} {words}" + (f", {moved} jobs requeued" if moved else ""))


def _take_back(site: Site, now: Machine, *, moved: bool, this: Step) -> None:
    """Wait until Slurm hears from the new machine, and let it run jobs again."""
    if moved:  # slurmctld remembers addresses
        retire.control(site, "reconfigure")
    deadline = time.monotonic() + WAIT_S
    while True:
        state = retire.states(site).get(now.name, "")
        if not state.endswith("*"):
            if state.startswith(("DRAIN", "DOWN")):
                retire.control(site, "update", f"NodeName={now.name}", "State=RESUME")
            elif state.split("+")[0] in READY:
                break
        this.doing(f"waiting for {now.name}, which is {state.lower() or 'not known'}")
        if time.monotonic() > deadline:
            raise Failure(
                f"Slurm does not hear from {now.name} ({state.lower() or 'not known'});"
                f" see: make logs CLUSTER={site.cluster.file} NODE={now.name}; then the same command again"
            )
        time.sleep(0.5)
    site.run(now.name, "/usr/libexec/slipway/health-check")
    this.did(f"{now.name} {state.lower()}, healthy")


# -- what a run that was interrupted has begun


def _begun(site: Site, node: str) -> str | None:
    """The id of the machine that a run before was to replace. Raises Failure when it was another node's."""
    found = files.state(site.folder / "replace.json")
    if found is None:
        return None
    if found["name"] != node:
        raise Failure(f"replacing {found['name']} was interrupted; first: make replace NODE={found['name']}")
    return str(found["id"])


def _note(site: Site, node: str, id_: str) -> None:
    files.put(site.folder / "replace.json", json.dumps({"name": node, "id": id_}) + "\n")


def _forget_begun(site: Site) -> None:
    (site.folder / "replace.json").unlink(missing_ok=True)
