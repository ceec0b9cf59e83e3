"""Taking nodes out of service before their machines go: drained, then waited for until no job is on them."""

import re

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.base.wait import settled
from infra.model import hostlist, nodestate
from infra.places.site.site import Site

REASON = "slipway: leaves the cluster"
ASK_S = 1.0
LATE_S = 120.0
BUSY = r"timed out|Unable to contact|Connection refused"
WAIT_S = 24 * 3600  # the longest that jobs may take to end by themselves


def leaving(site: Site) -> list[str]:
    """Compute nodes that have machines and are not in the cluster file any more."""
    if not site.file.is_file():
        return []
    there = [machine.name for machine in site.machines if "compute" in machine.parts]
    return [name for name in there if name not in set(site.cluster.nodes)]


def drain(site: Site, nodes: list[str], step: Step, *, requeue: bool, reason: str = REASON) -> int:
    """Let no new job onto `nodes` and wait for those that run there; `requeue` puts them back into the queue.

    Returns how many jobs were requeued. Nodes that Slurm does not know, or has lost, have no jobs.
    """
    known = nodes_of(site)
    there = [node for node in nodes if node in known]
    if not there:
        return 0
    hosts = hostlist.compress(there)
    control(site, "update", f"NodeName={hosts}", "State=DRAIN", f"Reason={reason}")
    moved = 0
    running: list[str] = []

    def look() -> str:
        nonlocal moved, running
        jobs = ask(site, "squeue", "-h", "-w", hosts, "-t", "R,CG,S,CF", "-o", "%A %t").splitlines()
        running = [line.split()[0] for line in jobs if line.split()[1] != "CG"]
        if requeue and running:
            control(site, "requeue", ",".join(running))
            moved += len(running)
        which = "jobs" if len(jobs) > 1 else "job"
        return f"{which} {', '.join(running) or 'to end'} on {hosts}" if jobs else ""

    settled(
        look,
        WAIT_S,
        every_s=ASK_S,
        step=step,
        late=lambda _: f"jobs {', '.join(running)} still run on {hosts}; requeue them: REQUEUE=1",
    )
    return moved


def resume(site: Site, nodes: list[str]) -> None:
    """Give nodes that we drained back to the scheduler; those that someone else drained stay so."""
    known = nodes_of(site)
    ours = [node for node in nodes if node in known and known[node].reason.startswith("slipway: ")]
    if ours:
        control(site, "update", f"NodeName={hostlist.compress(ours)}", "State=RESUME")


def nodes_of(site: Site) -> dict[str, nodestate.Node]:
    """Every node that slurmctld knows, with its state and why it is in it. Raises Failure."""
    return nodestate.parse(ask(site, *nodestate.ASK))


def control(site: Site, *words: str) -> str:
    return ask(site, "scontrol", *words)


def ask(site: Site, *words: str) -> str:
    """What a command of Slurm prints on the controller. Raises Failure.

    While the name of a machine that died resolves no more, slurmctld answers late: then it is asked again.
    """
    answer = ""

    def look() -> str:
        nonlocal answer
        try:
            answer = site.run(site.controller, *words)
        except Failure as failure:
            if not re.search(BUSY, str(failure)):
                raise
            return str(failure)
        return ""

    settled(look, LATE_S, every_s=ASK_S, late=lambda said: said)
    return answer
