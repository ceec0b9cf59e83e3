"""`make cluster-down`: remove containers and network; with PURGE=1 volumes and secrets as well."""

import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor

from infra.base.errors import Failure
from infra.base.progress import console, step
from infra.base.wait import settled
from infra.host import docker, engine
from infra.model.cluster import Cluster
from infra.places import secrets
from infra.places.lab.compose import Project

SAVE_S = 20  # for Slurm's daemons to end by themselves
GONE_S = 60  # for everything to be gone, also what the engine is still making for a run that was killed


def down(cluster: Cluster, *, purge: bool) -> None:
    """Remove the containers of `cluster`. Running jobs end; without `purge` their state and data stay."""
    project = Project(cluster.name)
    if not docker.ready():
        raise Failure("the Docker engine does not answer, so nothing was removed; run: make host")
    if _there(project, volumes=purge):
        with step("cluster") as this:
            containers, volumes = remove(project, volumes=purge)
            this.did(f"{containers} containers removed" + (f", {volumes} volumes" if volumes else ""))
    if purge:
        secrets.remove(project.cluster)
        shutil.rmtree(project.folder, ignore_errors=True)
        console.print(f"{project.cluster}: removed, with its data. What jobs wrote is still in runs/.")
        return
    kept = project.leftovers("volume")
    if kept:
        console.print(
            f"{project.cluster}: down. Its data stays in {len(kept)} volumes; PURGE=1 removes them."
        )
    else:
        console.print(f"{project.cluster}: down, nothing left.")


def remove(project: Project, *, volumes: bool) -> tuple[int, int]:
    """Remove what Docker has of the cluster; returns how many containers and volumes that were."""
    removed: set[tuple[engine.Kind, str]] = set()

    project.end_left()
    if not volumes:
        _let_it_save(project)

    def look() -> str:
        there = _there(project, volumes=volumes)
        try:
            for kind in ("container", "network", "volume"):  # each is used by those before it
                mine = [name for of, name in there if of == kind]
                with ThreadPoolExecutor(max_workers=8) as pool:
                    list(pool.map(lambda name, kind=kind: engine.remove(kind, name), mine))
        except Failure as failure:  # used by what the engine is still making or removing
            return str(failure)
        removed.update(there)
        return ", ".join(name for _, name in _there(project, volumes=volumes))

    settled(look, GONE_S, late=lambda left: f"not removed: {left}")
    kinds = [kind for kind, _ in removed]
    return kinds.count("container"), kinds.count("volume")


def _let_it_save(project: Project) -> None:
    """Have slurmctld and slurmdbd write down what they know, which a container that is removed at once does not.

    A job that ended a few seconds before would run again in the books of the next start, and hold its nodes until
    slurmctld finds out that no node knows it: a minute and a half.
    """
    running = {node.name for node in project.containers() if node.state == "running"}
    for unit in ("slurmctld", "slurmdbd"):
        if unit in running:
            with contextlib.suppress(Failure):  # it hangs, or has not come so far: what it has on disk stays
                project.run(unit, "timeout", str(SAVE_S), "systemctl", "stop", unit)


def _there(project: Project, *, volumes: bool) -> list[tuple[engine.Kind, str]]:
    """What Docker has of the cluster."""
    found: list[tuple[engine.Kind, str]] = [("container", node.container) for node in project.containers()]
    found += [("network", name) for name in project.leftovers("network")]
    return found + ([("volume", name) for name in project.leftovers("volume")] if volumes else [])
