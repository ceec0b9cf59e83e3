"""Looking into a running cluster: logs, a shell, the environment of the user's own shell, the checks."""

import sys

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.base.process import become, run
from infra.base.progress import console, step
from infra.model.cluster import Cluster
from infra.places.lab.compose import Project
from infra.places.look import JOURNAL
from infra.proof import verify as checks


def logs(cluster: Cluster, node: str, *, follow: bool) -> None:
    """Print the last lines of one node's journal, or of each node's."""
    project = _running(cluster)
    if node:
        words = [*JOURNAL, *(["--follow"] if follow else [])]
        become(["docker", "exec", _container(project, node), *words])
    if follow:
        raise Mistake("--follow needs a node; for example: make logs NODE=slurmctld FOLLOW=1")
    for there in project.containers():
        console.rule(there.name, align="left")
        sys.stdout.flush()
        run(["docker", "exec", there.container, *JOURNAL])


def shell(cluster: Cluster, node: str) -> None:
    """Replace this process by a shell on `node`: the user's on login, root's elsewhere."""
    project = _running(cluster)
    user, where = (cluster.user, str(CHECKOUT)) if node in ("", "login") else ("root", "/")
    tty = ["-t"] if sys.stdin.isatty() else []
    there = _container(project, node or "login")
    become(["docker", "exec", "-i", *tty, "--user", user, "--workdir", where, there, "bash", "-l"])


def verify(cluster: Cluster) -> None:
    """Run the checks of tests/nodes on the running cluster."""
    _running(cluster)
    with step("verify") as this:
        checks.run(cluster, this)


def _running(cluster: Cluster) -> Project:
    project = Project(cluster.name)
    project.require_up()
    return project


def _container(project: Project, node: str) -> str:
    names = [there.name for there in project.containers()]
    if node not in names:
        raise Mistake(f"NODE={node}: cluster '{project.cluster}' has {', '.join(names)}")
    return project.container(node)
