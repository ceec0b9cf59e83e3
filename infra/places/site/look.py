"""Looking into a cluster of machines: state, logs, a shell, the environment of the user's own shell."""

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from infra.base.errors import Failure, Mistake
from infra.base.process import become, run
from infra.base.progress import console
from infra.model import nodestate
from infra.model.cluster import Cluster
from infra.places.look import JOURNAL
from infra.places.site.site import Machine, Site, remote
from infra.proof import table

AT_ONCE = 32  # connections
LOGS_S = 120.0  # for some lines of a journal over a slow line
ANSWER_S = 30.0  # for a machine to do nothing; ssh gives up connecting after 10


def collect(site: Site) -> dict[str, Any]:
    """Everything that `status` shows, as plain values."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(pool.map(lambda m: (m.name, _answer(site, m.name)), site.machines))
    slurm: dict[str, nodestate.Node] = {}
    jobs: list[dict[str, str]] = []
    silence = answers[site.controller]
    if not silence:
        try:
            slurm = nodestate.parse(site.run(site.controller, *nodestate.ASK, timeout_s=ANSWER_S))
            jobs = table.listed(site, site.controller)
        except Failure as failure:
            silence = answers[site.controller] = f"slurmctld does not answer: {failure}"
    machines = [_row(m, answers[m.name], slurm, silence) for m in site.machines]
    # why the jobs are not known; empty when they are
    return {"cluster": site.name, "machines": machines, "unknown": silence, "jobs": jobs}


def _row(machine: Machine, wrong: str, slurm: dict[str, nodestate.Node], silence: str) -> dict[str, Any]:
    """What is known of one machine. Where the controller is silent nothing is known of those that run jobs."""
    reason, state, ok = wrong, "", not wrong
    if "compute" in machine.parts and not silence:
        node = slurm.get(machine.name, nodestate.Node(machine.name))
        state, reason, ok = node.state, wrong or node.reason, ok and node.well
    elif "compute" in machine.parts:
        reason, ok = wrong or "slurmctld does not answer", False
    return {
        "name": machine.name,
        "address": machine.address,
        "hardware": machine.hardware,
        "slurm": state,
        "reason": reason,
        "ok": ok,
    }


def _answer(site: Site, name: str) -> str:
    """Why a machine does not answer; empty when it does."""
    try:
        done = run([*site.ssh(name), "true"], timeout_s=ANSWER_S, capture_output=True, text=True)
    except Failure as failure:
        return str(failure)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else "no answer"


def show(facts: dict[str, Any]) -> None:
    """Print what `collect` found."""
    columns = ("machine", "address", "hardware", "Slurm", "what is wrong")
    cells = [
        (
            "" if row["ok"] else "red",
            row["name"],
            row["address"],
            row["hardware"],
            row["slurm"],
            row["reason"],
        )
        for row in facts["machines"]
    ]
    console.print(table.rows(columns, cells))
    table.show(facts["jobs"], facts["unknown"])


def logs(cluster: Cluster, node: str, *, follow: bool) -> None:
    """Print the last lines of one machine's journal, or of each machine's."""
    site = Site(cluster)
    if node:
        words = [*JOURNAL, *(["--follow"] if follow else [])]
        become([*site.ssh(_answering(site, node)), remote(words, "root", None)])
    if follow:
        raise Mistake(f"--follow needs a node; for example: make logs NODE={site.controller} FOLLOW=1")
    silent = []
    for machine in site.machines:
        console.rule(machine.name, align="left")
        sys.stdout.flush()
        if why := _answer(site, machine.name):
            silent.append(f"{machine.name}: {why}")
        else:
            run([*site.ssh(machine.name), remote(JOURNAL, "root", None)], timeout_s=LOGS_S)
    if silent:
        raise Failure("no answer from " + "; ".join(silent))


def shell(cluster: Cluster, node: str) -> None:
    """Replace this process by a shell: the user's on the login node, the admin's elsewhere."""
    site = Site(cluster)
    words = ["-t"] if sys.stdin.isatty() else []
    command = site.ssh(_answering(site, node or site.login))
    command[1:1] = words
    if node in ("", site.login):
        become([*command, f"sudo -n -H -u {shlex.quote(site.user)} -- bash -l"])
    become([*command, "sudo -n -H -- bash -l"])


def _answering(site: Site, node: str) -> str:
    """`node`, after it has answered: what takes the place of this process can be given no time. Raises Failure."""
    if why := _answer(site, _known(site, node)):
        raise Failure(f"{node} does not answer: {why}")
    return node


def _known(site: Site, node: str) -> str:
    names = [machine.name for machine in site.machines]
    if node not in names:
        raise Mistake(f"NODE={node}: cluster '{site.name}' has {', '.join(names)}")
    return node
