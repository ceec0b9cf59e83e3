"""Taking nodes out of service before their machines go: drained, then waited for until no job is on them."""

import re
import time

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.model import hostlist
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
    known = states(site)
    there = [node for node in nodes if node in known]
    if not there:
        return 0
    hosts = hostlist.compress(there)
    control(site, "update", f"NodeName={hosts}", "State=DRAIN", f"Reason={reason}")
    moved = 0
    begin = time.monotonic()
    while True:
        jobs = ask(site, "squeue", "-h", "-w", hosts, "-t", "R,CG,S,CF", "-o", "%A %t").splitlines()
        running = [line.split()[0] for line in jobs if line.split()[1] != "CG"]
        if not jobs:
            return moved
        if requeue and running:
            control(site, "requeue", ",".join(running))
            moved += len(running)
        step.doing(
            f"{hosts}: waiting for {'jobs' if len(jobs) > 1 else 'job'} {', '.join(running) or 'to end'}"
        )
        if time.monotonic() - begin > WAIT_S:
            raise Failure(f"jobs {', '.join(running)} still run on {hosts}; requeue them: REQUEUE=1")
        time.sleep(ASK_S)


def resume(site: Site, nodes: list[str]) -> None:
    """Give nodes that we drained back to the scheduler; those that someone else drained stay so."""
    why = reasons(site)
    ours = [node for node in nodes if why.get(node, "").startswith("slipway: ")]
    if ours:
        control(site, "update", f"NodeName={hostlist.compress(ours)}", "State=RESUME")


def reasons(site: Site) -> dict[str, str]:
    """Why nodes are drained or down; only those that are."""
    lines = ask(site, "sinfo", "-R", "-h", "-N", "-o", "%N|%E").splitlines()
    return dict(line.split("|", 1) for line in lines)


def states(site: Site) -> dict[str, str]:
    """Every node that slurmctld knows with its state, in capitals."""
    lines = ask(site, "sinfo", "-h", "-N", "-o", "%N %T").splitlines()
    return {line.split()[0]: line.split()[1].upper() for line in lines}


def control(site: Site, *words: str) -> str:
    return ask(site, "scontrol", *words)


def ask(site: Site, *words: str) -> str:
    """What a command of Slurm prints on the controller. Raises Failure.

    While the name of a machine that died resolves no more, slurmctld answers late: then it is asked again.
    """
    deadline = time.monotonic() + LATE_S
    while True:
        try:
            return site.run(site.controller, *words)
        except Failure as failure:
            if not re.search(BUSY, str(failure)) or time.monotonic() > deadline:
                raise
        time.sleep(ASK_S)
