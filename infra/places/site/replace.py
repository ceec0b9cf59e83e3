"""`make replace NODE=...`: another machine in the place of one that is broken, under the same name.

The node is drained; one that is dead is given up by Slurm, which queues its jobs again. Pulumi makes the new
machine, Ansible configures it alone, Slurm takes it back. No other machine is touched. A run that was interrupted
goes on: build/<cluster>/replace.json says which machine is to go.
"""

import json

from infra.base import files
from infra.base.errors import Failure, Mistake
from infra.base.progress import Step, console, step
from infra.base.wait import settled
from infra.model import hostlist, nodestate
from infra.model.cluster import Cluster
from infra.model.shape import parts
from infra.places.site import release, retire, ssh
from infra.places.site.site import Machine, Site
from infra.places.site.steps import WAIT_S, configure, prepare, provision, report

REASON = "slipway: is replaced"
KEEPS = {"db": "the accounting database", "slurmdbd": "the accounting service", "slurmctld": "Slurm's state"}


def machine(cluster: Cluster, node: str, *, requeue: bool) -> None:
    """Replace machine `node`. `requeue`: its jobs are put back into the queue, instead of waited for."""
    cluster = release.held(cluster)
    site = Site(cluster)
    _refuse(site, node)
    prepare(cluster)
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
    found = retire.nodes_of(site).get(node)
    moved = retire.drain(site, [node], this, requeue=requeue, reason=REASON)
    words = "empty" if found and found.answers else "gone already"
    this.did(f"{node} {words}" + (f", {moved} jobs requeued" if moved else ""))


def _take_back(site: Site, now: Machine, *, moved: bool, this: Step) -> None:
    """Wait until Slurm hears from the new machine, and let it run jobs again."""
    if moved:  # slurmctld remembers addresses
        retire.control(site, "reconfigure")
    found = nodestate.Node(now.name)

    def look() -> str:
        nonlocal found
        found = retire.nodes_of(site).get(now.name, nodestate.Node(now.name))
        if found.answers and found.out:
            retire.control(site, "update", f"NodeName={now.name}", "State=RESUME")
        return "" if found.takes else f"{now.name}, which is {found.state}"

    settled(
        look,
        WAIT_S,
        step=this,
        late=lambda _: (
            f"Slurm does not hear from {now.name} ({found.state});"
            f" see: make logs CLUSTER={site.cluster.file} NODE={now.name}; then the same command again"
        ),
    )
    site.run(now.name, "/usr/libexec/slipway/health-check")
    this.did(f"{now.name} {found.state}, healthy")


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
