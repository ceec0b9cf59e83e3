"""Whose a cluster on this machine is: containers are named after the cluster, and so belong to one checkout at a time.

A verb that changes a cluster, or judges it by this checkout's files, asks first. The answer is a label on every
container and network of it; what was made before there was one is known by Compose's own label.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from infra.base import lock
from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT, build, cache
from infra.host import engine
from infra.model.cluster import Cluster

WORKING_DIR = "com.docker.compose.project.working_dir"  # build/<cluster> of a checkout, on a lab's containers
# What the containers and networks of a cluster are found by; places that are not here are on no engine.
FOUND_BY = {
    "lab": ("com.docker.compose.project=slipway-{}", "io.x-k8s.kind.cluster=slipway-{}"),
    "docker": ("slipway:cluster={}",),
}


def labels() -> dict[str, str]:
    """What everything that this checkout makes is labelled with."""
    return {engine.OWNER: str(CHECKOUT)}


def of(facts: dict[str, Any]) -> str:
    """The checkout that made a container or network, from what the engine says of it; empty when it does not."""
    found = facts.get("Labels") or facts.get("Config", {}).get("Labels") or {}
    if engine.OWNER in found:
        return str(found[engine.OWNER])
    return str(Path(found[WORKING_DIR]).parent.parent) if WORKING_DIR in found else ""


def refuse_others(cluster: Cluster, *, removing: bool = False) -> None:
    """Raise Mistake when something of `cluster` is there that another checkout made, naming that."""
    searched = [label.format(cluster.name) for label in FOUND_BY.get(cluster.place, ())]
    if not searched or not engine.answers():
        return  # nothing runs here
    there = [
        of(facts) for label in searched for facts in (*engine.containers(label), *engine.networks(label))
    ]
    for owner in sorted(set(there) - {"", str(CHECKOUT)}):
        if why := refusal(cluster.name, owner, removing=removing):
            raise Mistake(why)


def refusal(name: str, owner: str, *, removing: bool) -> str:
    """Why this checkout leaves cluster `name` of `owner` alone; empty when it need not.

    A checkout that is gone owns nothing that one could go to: what it left may be removed from here, no more.
    """
    if Path(owner, "infra").is_dir():
        return (
            f"cluster '{name}' belongs to the checkout {owner}: work on it there,"
            f" or give your own cluster file another `name:`"
        )
    if removing:
        return ""
    return f"cluster '{name}' belongs to the checkout {owner}, which is gone: first make cluster-down"


@contextmanager
def working(cluster: Cluster, *, removing: bool = False) -> Iterator[None]:
    """Hold `cluster` while a verb changes it. Raises Failure that says who does so already, Mistake whose it is.

    One on this machine is held for every checkout of this user: two that start at once would take each other's
    containers before either has a label to show.
    """
    here = cluster.place in FOUND_BY
    file = cache() / "locks" / f"cluster-{cluster.name}" if here else build(cluster.name) / "cluster.lock"
    with ExitStack() as held:
        try:
            held.enter_context(lock.held(file, f"cluster '{cluster.name}'"))
        except Failure:
            # That it is another checkout's says more: to wait for it would not help.
            refuse_others(cluster, removing=removing)
            raise
        refuse_others(cluster, removing=removing)
        yield
