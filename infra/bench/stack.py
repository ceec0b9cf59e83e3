"""Benchmarks of the jobs (jobs/bench) on the stack, in a container of the node image with all cores."""

import json
import os
from pathlib import Path

from infra.bench.figure import Figure, Result
from infra.bench.world import World
from infra.host import engine

RANKS = 2
CONTAINER = "slipway-bench-stack"
METHOD = (
    "`python -m jobs.bench {name} --ranks={ranks}` on the stack, in the node image, with all cores; {what}"
)


def ddp(world: World) -> Result:
    """Two ranks beside one on the same cores, and beside their bound."""
    return _run(
        world,
        "ddp",
        "model and batch of jobs/ddp.yaml, one thread a rank, medians of 15 rounds that take turns; the"
        " bound: a rank's share with nothing exchanged, plus an all-reduce of the gradient's size",
    )


def allreduce(world: World) -> Result:
    """All-reduce by size, beside TCP between the same processes."""
    return _run(
        world,
        "allreduce",
        "jobs/collectives: bus bandwidth as nccl-tests defines it, medians of 5 times the mean of 5 calls; TCP:"
        " plain sockets between the same processes, the rate of one direction while both are busy",
    )


def scaling(world: World) -> Result:
    """1, 2 and 4 ranks on the same global batch, beside their bounds."""
    return _run(
        world,
        "scaling",
        "model and batch of jobs/ddp.yaml, one thread a rank, medians of 7 rounds that take turns; the bounds: a"
        " rank's share with nothing exchanged plus an all-reduce of the gradient's size, and one rank as often as"
        " there are ranks or cores",
        ranks=4,
    )


def compute(world: World) -> Result:
    """Precision and the other ways to compute a step, beside fp32."""
    return _run(
        world,
        "compute",
        "model and batch of jobs/ddp.yaml on one rank with one thread, each way with a model of its own for 20 steps"
        " on the same batches, in turns: medians of the last 17; what a CPU cannot do is left out (tf32, fp8; compile,"
        " which needs a C++ compiler)",
        ranks=1,
    )


def faults(world: World) -> Result:
    """Signal to saved, a killed rank to the next step, a hung rank to its detection."""
    return _run(
        world,
        "faults",
        "model of jobs/ddp.yaml on two ranks, each once: SIGUSR2 to the launcher, until the checkpoint has its name;"
        " SIGKILL to a worker, until the first step after the restart; SIGSTOP 25 steps later, until ended.json names"
        " the rank",
    )


def launchers(world: World) -> Result:
    """Command to both ranks, by each launcher beside bare torchrun."""
    return _run(
        world,
        "launchers",
        "two ranks of jobs/whoami.py, which imports no torch, until both have written what they were told;"
        " medians of 3 rounds that take turns",
    )


def resume(world: World) -> Result:
    """Checkpoints of 1 to 4 ranks read by 1 to 4."""
    return _run(
        world,
        "resume",
        "model of jobs/ddp.yaml, each once: the phase `load`, checksums and the first import of torch's checkpoint"
        " reader included; the plain read: the same files, which are in memory as after a save",
    )


def checkpoint(world: World) -> Result:
    """A checkpoint beside the disk's own speed, and what it keeps the training waiting for."""
    return _run(
        world,
        "checkpoint",
        "written to the checkout's disk, medians of 5 that take turns with the same bytes written and synced"
        " plainly, and with a copy in memory, which is the least that an asynchronous save can wait for",
    )


def _run(world: World, name: str, what: str, ranks: int = RANKS) -> Result:
    stack = Path(world.where(world.stack))
    (world.checkout / "runs").mkdir(exist_ok=True)
    engine.remove_container(CONTAINER)
    try:
        said = world.run(
            *(
                "docker",
                "run",
                "--rm",
                "--init",
                "--name",
                CONTAINER,
                "--network",
                "none",
                "--hostname",
                "localhost",
            ),
            *("--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL", "--shm-size", "1g"),
            *("--env", "PYTHONDONTWRITEBYTECODE=1", "--env", "HOME=/tmp"),
            *("--volume", f"{world.checkout}:{world.checkout}", "--workdir", world.checkout),
            *("--volume", f"{stack}:/opt/stack/{stack.name}:ro", world.where("node")),
            *(f"/opt/stack/{stack.name}/bin/python", "-m", "jobs.bench", name, "--json", f"--ranks={ranks}"),
        )
    finally:
        engine.remove_container(CONTAINER)
    return Result(name, METHOD.format(name=name, ranks=ranks, what=what), figures(said))


def figures(said: str) -> list[Figure]:
    """The figures among the lines that jobs.bench printed: each is a JSON object of its own."""
    facts = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [
        Figure(*(each[key] for key in ("name", "value", "unit", "limit", "limit_name"))) for each in facts
    ]
