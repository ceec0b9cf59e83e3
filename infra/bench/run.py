"""One measurement or all of them, in one world: told as they end, then written to docs/measured.md."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from infra.base.errors import Failure
from infra.base.progress import Step, console, step
from infra.bench import cluster, compiled, inventory, kubernetes, machines, measured, render, scale, stack
from infra.bench.figure import Result
from infra.bench.world import World, world
from infra.model.host import read_host

HERE: dict[str, Callable[..., Result]] = {  # in this checkout and process
    "render": render.measure,
    "inventory": inventory.inventory,
    "preview": inventory.preview,
    "growth": machines.growth,
    "programs": compiled.measure,
}
IN_A_WORLD: dict[str, Callable[[World], Result]] = {
    "cold": cluster.cold,
    "warm": cluster.warm,
    "second": cluster.second,
    "submit": cluster.submit,
    "kill": cluster.kill,
    "ddp": stack.ddp,
    "scaling": stack.scaling,
    "allreduce": stack.allreduce,
    "checkpoint": stack.checkpoint,
    "compute": stack.compute,
    "faults": stack.faults,
    "launchers": stack.launchers,
    "resume": stack.resume,
}
# These never need a world with an empty cache: Pulumi's command line and Kubernetes take half an hour to compile.
WARM: dict[str, Callable[[World], Result]] = {
    "site": machines.site,
    "site-second": machines.second,
    "site-grow": machines.grow,
    "kind": kubernetes.up,
    "kind-job": kubernetes.run_job,
    "kind-disk": kubernetes.disk,
    "kubernetes-scale": scale.scale,
}
# In the order of docs/measured.md.
ORDER = (
    *("cold", "warm", "second", "submit", "site", "site-second", "site-grow", "growth"),
    *("programs", "kind", "kind-job", "kind-disk", "kubernetes-scale"),
    *("render", "inventory", "preview", "ddp", "scaling", "allreduce", "checkpoint", "compute"),
    *("faults", "resume", "kill", "launchers"),
)
# `all` in the order that brings each cluster up as seldom as can be: cold's is used until warm needs it gone.
ALL = (
    *("render", "inventory", "preview", "programs"),
    *("cold", "second", "submit", "kill", "warm"),
    *("ddp", "scaling", "allreduce", "checkpoint", "compute", "faults", "resume", "launchers"),
    *("site", "site-second", "site-grow", "kind", "kind-disk", "kind-job", "kubernetes-scale", "growth"),
)


def run(names: Sequence[str], *, write: Path | None, as_json: bool, nodes: int | None = None) -> None:
    """Measure `names`, print, and with `write` put the lines into that file.

    `nodes`: the size of what is measured HERE, when not its own. One that fails does not keep the others from
    being measured and written; at the end it raises Failure.
    """
    results: list[Result] = []
    failed: list[str] = []
    machine = read_host()
    if write:
        measured.write(
            write, [], ORDER, machine
        )  # a file that cannot be written is told now and not in an hour
    for name, outcome in _outcomes(names, quiet=as_json, nodes=nodes):
        if isinstance(outcome, Failure):
            failed.append(f"{name}: {outcome}")
            continue
        results.append(outcome)
        if write:
            measured.write(write, [outcome], ORDER, machine)
        if not as_json:
            console.print("\n".join(f"    {line}" for line in outcome.lines()))
    if as_json:
        print(json.dumps([result.facts() for result in results], indent=2))
    if failed:
        raise Failure("\n".join(failed))


def _outcomes(
    names: Sequence[str], *, quiet: bool, nodes: int | None
) -> Iterator[tuple[str, Result | Failure]]:
    size = {} if nodes is None else {"nodes": nodes}
    with ExitStack() as stack:
        worlds: dict[str, World] = {}  # the one that is open, by its kind
        for name in names:
            with ExitStack() as line:
                this = Step(name, None) if quiet else line.enter_context(step(name))
                try:
                    kind = world_of(name, names)
                    if kind not in worlds:
                        stack.pop_all().close()
                        worlds.clear()
                        if kind:
                            worlds[kind] = stack.enter_context(world(fresh=kind == "fresh"))
                    in_a_world = IN_A_WORLD | WARM
                    result = in_a_world[name](worlds[kind]) if kind else HERE[name](**size)
                    this.did("measured")
                except Failure as failure:
                    this.did("failed")
                    outcome: Result | Failure = failure
                else:
                    outcome = result
            yield name, outcome


def world_of(name: str, names: Sequence[str]) -> str:
    """The kind of world for `name` among `names`: fresh, with the user's cache (shared), or '' for none."""
    if name in HERE:
        return ""
    return "fresh" if "cold" in names and name in IN_A_WORLD else "shared"
