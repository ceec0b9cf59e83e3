"""One measurement or all of them, in one world: told as they end, then written to docs/measured.md."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from infra.bench import cluster, measured, render, stack
from infra.bench.figure import Result
from infra.bench.world import World, world
from infra.errors import Failure
from infra.machine import read_machine
from infra.progress import Step, console, step

# In the order of docs/measured.md.
IN_A_WORLD: dict[str, Callable[[World], Result]] = {
    "cold": cluster.cold,
    "warm": cluster.warm,
    "second": cluster.second,
    "submit": cluster.submit,
    "kill": cluster.kill,
    "ddp": stack.ddp,
    "allreduce": stack.allreduce,
    "checkpoint": stack.checkpoint,
}
ORDER = ("cold", "warm", "second", "submit", "render", "ddp", "allreduce", "checkpoint", "kill")
# `all` in the order that brings the cluster up twice only: cold's is used until warm needs it gone.
ALL = ("render", "cold", "second", "submit", "kill", "warm", "ddp", "allreduce", "checkpoint")


def run(names: Sequence[str], *, write: Path | None, as_json: bool, nodes: int = render.NODES) -> None:
    """Measure `names`, print, and with `write` put the lines into that file.

    One that fails does not keep the others from being measured and written; at the end it raises Failure.
    """
    results: list[Result] = []
    failed: list[str] = []
    machine = read_machine()
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
            console.print("\n".join(f"    {line}" for line in outcome.lines()), markup=False)
    if as_json:
        print(json.dumps([result.facts() for result in results], indent=2))
    if failed:
        raise Failure("\n".join(failed))


def _outcomes(names: Sequence[str], *, quiet: bool, nodes: int) -> Iterator[tuple[str, Result | Failure]]:
    with ExitStack() as stack:
        here: World | None = None
        for name in names:
            with ExitStack() as line:
                this = Step(name, None) if quiet else line.enter_context(step(name))
                try:
                    if name == "render":
                        result = render.measure(nodes)
                    else:
                        here = here or stack.enter_context(world(fresh="cold" in names))
                        result = IN_A_WORLD[name](here)
                    this.did("measured")
                except Failure as failure:
                    this.did("failed")
                    outcome: Result | Failure = failure
                else:
                    outcome = result
            yield name, outcome
