"""`make status`: nodes, jobs, health, addresses and disk of a running cluster, on one screen or as JSON."""

from typing import Any

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.progress import console
from infra.model import nodestate
from infra.model.cluster import Cluster
from infra.places import look
from infra.places.lab.compose import SERVICES, Node, Project
from infra.proof import table


def project(cluster: Cluster) -> Project:
    """The containers of `cluster`."""
    return Project(cluster.name)


def collect(project: Project) -> dict[str, Any]:
    """Everything that `status` shows, as plain values."""
    containers = project.containers()
    slurm, silence = _slurm_nodes(project) if containers else ({}, "")
    jobs, unknown = ([], f"slurmctld {silence}") if silence else _jobs(project) if containers else ([], "")
    return {
        "cluster": project.cluster,
        "nodes": [_row(node, slurm, silence) for node in containers],
        "unknown": unknown,  # why the jobs are not known; empty when they are
        "jobs": jobs,
        "disk": look.disk(CHECKOUT / "runs"),
    }


def _row(node: Node, slurm: dict[str, nodestate.Node], silence: str) -> dict[str, Any]:
    """What is known of one node. Where the controller is silent nothing is known of those that run jobs."""
    ok, state, reason = node.health == "healthy", "", ""
    if node.name == "slurmctld" and silence:
        ok, reason = False, silence
    elif node.name not in SERVICES and silence:
        ok, reason = False, "slurmctld does not answer"
    elif node.name not in SERVICES:
        found = slurm.get(node.name, nodestate.Node(node.name))
        ok, state, reason = ok and found.well, found.state, found.reason
    return {
        "name": node.name,
        "container": node.container,
        "state": node.state,
        "health": node.health,
        "address": ", ".join(node.addresses),
        "slurm": state,
        "reason": reason,
        "ok": ok,
    }


def _slurm_nodes(project: Project) -> tuple[dict[str, nodestate.Node], str]:
    """What the controller says of its nodes, and why it does not; one of the two is empty."""
    try:
        return project.slurm_nodes(), ""
    except Failure as failure:
        return {}, f"does not answer: {failure}"


def _jobs(project: Project) -> tuple[list[dict[str, str]], str]:
    """Every job, and why they are not known; a login node that is silent knows of none."""
    try:
        return table.listed(project, project.login), ""
    except Failure as failure:
        return [], str(failure)


def show(facts: dict[str, Any]) -> None:
    """Print what `collect` found."""
    if not facts["nodes"]:
        console.print(f"{facts['cluster']}: not up; run: make cluster-up")
        return
    columns = ("node", "container", "Slurm", "address", "what is wrong")
    cells = [
        (
            "" if node["ok"] else "red",
            node["name"],
            node["health"] or node["state"],
            node["slurm"],
            node["address"],
            node["reason"],
        )
        for node in facts["nodes"]
    ]
    console.print(table.rows(columns, cells))
    table.show(facts["jobs"], facts["unknown"])
    console.print(look.disk_line(facts["disk"], "runs/"))
