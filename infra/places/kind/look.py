"""Looking into a running kind cluster: state on one screen, logs, a shell, the environment of the user's own."""

import sys
from dataclasses import asdict
from typing import Any, NoReturn

from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.base.process import become, persons, run
from infra.base.progress import console
from infra.places.kind import deploy, facts
from infra.places.kind import job as jobs
from infra.places.kind.cluster import Kind, kubectl
from infra.places.look import JOURNAL, disk, disk_line
from infra.proof.table import rows


def collect(kind: Kind) -> dict[str, Any]:
    """Everything that `status` shows, as plain values."""
    try:
        world, why = jobs.world(kind), ""
    except Failure as failure:
        world, why = facts.World(), str(failure)
    nodes = {facts.name(node): node for node in world.nodes}
    return {
        "cluster": kind.cluster.name,
        "nodes": [
            {
                "name": kind.called(container.name),
                "container": container.name,
                "state": container.state,
                "address": ", ".join(container.addresses),
                **_node(kind, container.name, nodes.get(container.name), why),
            }
            for container in kind.containers()
        ],
        "unknown": why,  # why the jobs are not known; empty when they are
        "jobs": [asdict(each) for each in facts.jobs(world)],
        "waiting": facts.waiting_workloads(world),
        "disk": disk(kind.runs),
    }


def _node(kind: Kind, container: str, node: dict[str, Any] | None, why: str) -> dict[str, Any]:
    there = (node or {}).get("status", {}).get("allocatable", {})
    resource = next(
        (
            pool.hardware.accelerators.kubernetes_resource
            for pool in kind.cluster.pools
            if pool.hardware.accelerators and kind.called(container) in pool.nodes
        ),
        None,
    )
    wrong = facts.reason(node) if node else "not known" if why else "not in the cluster"
    return {
        "ready": bool(node) and facts.ready(node or {}),
        "cpu": there.get("cpu", ""),
        "memory": there.get("memory", ""),
        "gpus": int(there.get(resource, 0)) if resource else 0,
        "simulated": bool(resource),
        "version": (node or {}).get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""),
        "reason": wrong,
        "ok": not wrong,
    }


def show(kind: Kind, found: dict[str, Any]) -> None:
    """Print what `collect` found."""
    if not found["nodes"]:
        console.print(f"{found['cluster']}: not up; run: make cluster-up CLUSTER={kind.cluster.file}")
        return
    console.print(rows(("node", "state", "GPUs", "CPU", "address", "what is wrong"), [
        (
            ("" if node["ok"] else "red"),
            node["name"],
            "ready" if node["ready"] else "not ready" if node["state"] == "running" else node["state"],
            f"{node['gpus']} simulated" if node["gpus"] else "-",
            node["cpu"],
            node["address"],
            node["reason"],
        )
        for node in found["nodes"]
    ]))  # fmt: skip
    console.print()
    jobs_there = [
        (
            "",
            each["namespace"],
            each["name"],
            each["state"].lower(),
            ", ".join(kind.called(node) for node in each["nodes"]),
            each["waits"],
        )
        for each in found["jobs"]
    ]
    if found["unknown"]:
        console.print(f"no node or job is known: {found['unknown']}")
    elif jobs_there:
        console.print(rows(("namespace", "job", "state", "nodes", "waits for"), jobs_there))
    else:
        console.print("no jobs")
    others = [each for each in found["waiting"] if each["job"] not in {job["name"] for job in found["jobs"]}]
    for each in others:
        console.print(f"{each['namespace']}/{each['job']} waits in queue {each['queue']}: {each['why']}")
    console.print(disk_line(found["disk"], "runs"))


def logs(kind: Kind, what: str, *, follow: bool) -> None:
    """Print the journal of a node, or what the pods of a job or of a service say; of every node when '' ."""
    if not kind.containers():
        kind.require_up()
    if what:
        words = ["--follow"] if follow else []
        container = _container(kind, what)
        if container:
            become(["docker", "exec", container, *JOURNAL, *words])
        namespace, selector = _pods(kind, what)
        pods = ["--namespace", namespace, "--selector", selector, "--prefix", "--all-containers", "--tail=40"]
        become([kubectl(), "logs", *pods, *words], env=kind.environment)
    if follow:
        raise Mistake("--follow needs a node, a job or a service; for example: make logs NODE=c1 FOLLOW=1")
    for each in kind.containers():
        console.rule(kind.called(each.name), align="left")
        sys.stdout.flush()
        run(["docker", "exec", each.name, *JOURNAL])


def _pods(kind: Kind, what: str) -> tuple[str, str]:
    """Namespace and label selector of the pods of a job, or of a deployment or daemon set."""
    kind.require_up()
    for there in facts.jobs(jobs.world(kind)):
        if there.name == what:
            return there.namespace, f"{facts.JOB_LABEL}={what}"
    owners = deploy.workloads(kind)
    for each in owners:
        if facts.name(each) == what:
            labels = each["spec"]["selector"]["matchLabels"]
            return each["metadata"]["namespace"], ",".join(f"{key}={value}" for key, value in labels.items())
    nodes = ["control-plane", *kind.workers]
    names = sorted(facts.name(each) for each in owners)
    raise Mistake(
        f"NODE={what}: no node, job or service of that name; nodes: {', '.join(nodes)}; services: {', '.join(names)}"
    )


def shell(kind: Kind, node: str) -> NoReturn:
    """Replace this process by a shell: one of this machine that has kubectl, or root's on `node`."""
    kind.require_up() if not node else None
    if node:
        container = _container(kind, node)
        if not container:
            raise Mistake(f"NODE={node}: there are control-plane, {', '.join(kind.workers)}")
        tty = ["-t"] if sys.stdin.isatty() else []
        become(["docker", "exec", "-i", *tty, container, "bash", "-l"])
    own = persons()  # it is the person's own shell, on this machine
    here = {"PATH": f"{CHECKOUT / 'bin'}:{own['PATH']}", "SLIPWAY_CLUSTER": kind.cluster.name}
    become(["bash"], env=own | kind.environment | here)


def _container(kind: Kind, what: str) -> str | None:
    """The container that people call `what`."""
    names = {kind.called(each.name): each.name for each in kind.containers()}
    names |= {name: name for name in names.values()}
    return names.get(what)
