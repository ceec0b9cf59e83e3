"""`make status`: nodes, jobs, health, addresses and disk of a running cluster, on one screen or as JSON."""

import shutil
from pathlib import Path
from typing import Any

from rich.table import Table

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT, cache
from infra.base.process import run
from infra.base.progress import console
from infra.model import nodestate
from infra.model.cluster import Cluster
from infra.places.lab.compose import SERVICES, Node, Project
from infra.proof import table


def project(cluster: Cluster) -> Project:
    """The containers of `cluster`."""
    return Project(cluster.name)


def collect(project: Project) -> dict[str, Any]:
    """Everything that `status` shows, as plain values."""
    containers = project.containers()
    slurm, silence = _slurm_nodes(project) if containers else ({}, "")
    nodes = [_row(node, slurm, silence) for node in containers]
    return {
        "cluster": project.cluster,
        "nodes": nodes,
        "jobs": _jobs(project),
        "disk": {
            "free_gib": round(shutil.disk_usage(CHECKOUT).free / 2**30, 1),
            "cache_gib": gib(cache()),
            "runs_gib": gib(CHECKOUT / "runs"),
        },
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


def _jobs(project: Project) -> list[dict[str, str]]:
    try:
        return table.listed(project, project.login)
    except Failure:
        return []


def gib(folder: Path) -> float:
    """GiB on disk below `folder`; 0 where it is not there."""
    if not folder.exists():
        return 0.0
    # Not by process.output: files may go while they are counted, which du calls a failure.
    done = run(["du", "-sk", folder], capture_output=True, text=True)
    return round(int((done.stdout or "0").split()[0]) / 2**20, 2)


def show(facts: dict[str, Any]) -> None:
    """Print what `collect` found."""
    if not facts["nodes"]:
        console.print(f"{facts['cluster']}: not up; run: make cluster-up")
        return
    nodes = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", "container", "Slurm", "address", "what is wrong"):
        nodes.add_column(column)
    for node in facts["nodes"]:
        nodes.add_row(
            node["name"],
            node["health"] or node["state"],
            node["slurm"],
            node["address"],
            node["reason"],
            style="" if node["ok"] else "red",
        )
    console.print(nodes)
    table.show(facts["jobs"])
    disk = facts["disk"]
    console.print(
        f"\ndisk: {disk['free_gib']} GiB free; cache {disk['cache_gib']} GiB, runs/ {disk['runs_gib']} GiB"
    )
