"""From `make cluster-up` and `sbatch` to the first training step, and from a node's death to the next one."""

import json
import re
import statistics
import time
from dataclasses import dataclass
from typing import Any

from infra.base.errors import Failure
from infra.base.process import output
from infra.base.wait import until
from infra.bench.figure import Figure, Result
from infra.bench.world import World
from infra.host import engine
from infra.proof import run as job

COLD_GOAL_S, WARM_GOAL_S, SECOND_GOAL_S, KILL_GOAL_S = 300, 45, 5, 60
ABOVE_IMPORT_S = 3  # what a job may take beside one `import torch`
REPEATS = 3
SCRIPT = "jobs/ddp.sbatch"
STEP = re.compile(
    r"^  (\w+) .*?(\d+(?:\.\d+)?) s$", re.MULTILINE
)  # infra/base/progress.py and infra/bootstrap print these


@dataclass(frozen=True)
class Start:
    """A way to a training step: seconds in all, and by phase."""

    seconds: float
    phases: dict[str, float]


def cold(world: World) -> Result:
    """`make cluster-up` in a fresh world."""
    start = _cluster_up(world)
    return Result(
        "cold",
        "`make cluster-up` typed in a copy of the checkout with an empty cache, no tools and no images,"
        " to the end of the first training step by the job's clock; the Docker engine and the host's"
        " packages are as found",
        [Figure("cold cluster-up to the first training step", start.seconds, "s", COLD_GOAL_S, "goal")],
        start.phases,
    )


def warm(world: World) -> Result:
    """`make cluster-up` where everything is built, and nothing runs or is kept from before."""
    world.make("cluster-up", "JOB=")
    world.down()
    start = _cluster_up(world)
    return Result(
        "warm",
        "`make cluster-up` typed with images and tools there, after `make cluster-down PURGE=1` (new secrets,"
        " database, accounts, training data), to the end of the first training step by the job's clock",
        [Figure("warm cluster-up to the first training step", start.seconds, "s", WARM_GOAL_S, "goal")],
        start.phases,
    )


def second(world: World) -> Result:
    """`make cluster-up` where there is nothing to do."""
    world.make("cluster-up")
    took = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        said = world.make("cluster-up")
        took.append(time.perf_counter() - begin)
        if "nothing to change" not in said:
            raise Failure(f"a second `make cluster-up` changed something: {said.strip()}")
    return Result(
        "second",
        "`make cluster-up` on a cluster that is up and proved, which must say that nothing is to change;"
        f" median of {REPEATS}",
        [Figure("second cluster-up", statistics.median(took), "s", SECOND_GOAL_S, "goal")],
    )


def submit(world: World) -> Result:
    """`sbatch` to the first training step on an idle cluster."""
    world.make("cluster-up", "JOB=")
    _first_step(world)  # prepares the data, which stays
    imported = statistics.median(_import_torch(world) for _ in range(REPEATS))
    start = sorted((_first_step(world) for _ in range(REPEATS)), key=lambda each: each.seconds)[REPEATS // 2]
    return Result(
        "submit",
        f"`sbatch {SCRIPT}` typed, to the end of the first training step on 2 nodes by the job's clock,"
        f" median of {REPEATS}; queue: until the job's output file is there, so with the prolog; agent:"
        " torchrun's own import and rendezvous; the one import: srun on one of the nodes, median of"
        f" {REPEATS}",
        [
            Figure(
                "sbatch to the first training step",
                start.seconds,
                "s",
                imported + ABOVE_IMPORT_S,
                f"import torch + {ABOVE_IMPORT_S} s",
            ),
            Figure("  one import torch on the same node", imported, "s"),
        ],
        start.phases,
    )


def kill(world: World, *, node: str = "c2") -> Result:
    """Kill a node in the middle of training, and let it start again as soon as Slurm has noticed."""
    world.make("cluster-up", "JOB=")
    every, at = 20, 50
    words = ("--train.steps=1000", f"--checkpoint.every={every}", "--checkpoint.keep=2")
    run = _sbatch(world, *words)
    _attempt(world, run, 0)
    until(f"step {at}", lambda: len(run.metrics()) >= at, every_s=0.1)
    began = time.time()
    output(["docker", "kill", world.project.container(node)])
    reached = len(run.metrics())
    marks = _recovery(world, run, node)
    attempt = _attempt(world, run, 1)
    _cancel(world, run)
    agent, inside = split(attempt)
    back = marks.pop("back", None)
    lost = Figure(
        f"  steps computed again (a checkpoint every {every})", reached - attempt["resumed_from"], "steps"
    )
    boot = Figure("  of it until the node is back in Slurm", back - began, "s") if back else None
    return Result(
        "kill",
        f"`docker kill` of 1 of 2 nodes after step {at}, to the end of the first training step after the"
        " restart by the job's clock; detection: until Slurm has the node down, which is then started"
        " again; requeue: until Slurm runs the job again, which waits for the node and for the old start's"
        " credentials to expire; both asked for every 0.5 s",
        [
            Figure(
                "node kill to the next training step",
                attempt["first_step_unix"] - began,
                "s",
                KILL_GOAL_S,
                "goal",
            ),
            *([boot] if boot else []),
            lost,
        ],
        {**between(began, {**marks, "start": agent}), **inside},
    )


def between(began: float, marks: dict[str, float]) -> dict[str, float]:
    """Seconds by phase from the Unix times at which phases ended, in order; none below 0."""
    phases, last = {}, began
    for name, ended in marks.items():
        phases[name] = max(0.0, ended - last)
        last = max(last, ended)
    return phases


def split(attempt: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """When torchrun started (Unix time) and the phases from there to the first step; of one start of a job.

    What the job says of the time before comes from Slurm, which keeps whole seconds.
    """
    inside = {
        name.replace("_", " "): s for name, s in attempt["phases"].items() if name not in ("queue", "start")
    }
    return attempt["first_step_unix"] - sum(inside.values()), inside


def steps(said: str, seconds: float) -> dict[str, float]:
    """Phases of `make cluster-up` from what it printed; `seconds` is the time to the first training step.

    The job's own step ends with the job; what is left for it here is its way to the first training step.
    """
    phases = {name: float(took) for name, took in STEP.findall(said) if name != "job"}
    return {**phases, "job": seconds - sum(phases.values())}


def _cluster_up(world: World) -> Start:
    """The cluster is brought up and its job followed to the end, so that it is proved for what comes next."""
    began = time.time()
    said = world.make("cluster-up")
    first = json.loads((world.checkout / "runs/latest/attempts.jsonl").read_text().splitlines()[0])
    seconds = first["first_step_unix"] - began
    return Start(seconds, steps(said, seconds))


def _first_step(world: World) -> Start:
    began = time.time()
    run = _sbatch(world)
    submitted = time.time()
    out = world.checkout / "runs" / f"{run.id}.out"
    until(f"the output of job {run.id}", out.exists, every_s=0.01)
    opened = time.time()
    attempt = _attempt(world, run, 0)
    _cancel(world, run)
    agent, inside = split(attempt)
    phases = between(began, {"sbatch": submitted, "queue": opened, "start": agent})
    return Start(attempt["first_step_unix"] - began, {**phases, **inside})


def _sbatch(world: World, *words: str) -> job.Run:
    (world.checkout / "runs").mkdir(exist_ok=True)
    answer = world.slurm("sbatch", "--parsable", SCRIPT, *words)
    return job.Run(answer.split(";")[0], runs=world.checkout / "runs")


def _attempt(world: World, run: job.Run, number: int) -> dict[str, Any]:
    """What the job says of its start `number`, once that has reached a training step."""
    try:
        until(f"a training step of job {run.id}", lambda: len(run.attempts()) > number, 300, every_s=0.05)
    except Failure as failure:
        out = world.checkout / "runs" / f"{run.id}.out"
        said = out.read_text().strip().splitlines()[-5:] if out.exists() else ["it has no output"]
        raise Failure("\n  ".join([str(failure), *said])) from None
    return run.attempts()[number]


def _cancel(world: World, run: job.Run) -> None:
    """End the job and wait until the nodes are idle again, so that the next one does not wait for them."""
    world.slurm("scancel", run.id)
    until("an empty queue", lambda: not world.slurm("squeue", "-h"), 60)
    until("idle nodes", lambda: set(world.slurm("sinfo", "-h", "-o", "%T").split()) == {"idle"}, 120)


def _recovery(world: World, run: job.Run, node: str) -> dict[str, float]:
    """Unix times at which Slurm had the node down, had it back, and had the job running; starts the node."""
    marks: dict[str, float] = {}
    ask = f"sinfo -h -N -n {node} -o %T; scontrol -o show job {run.id}"
    deadline = time.monotonic() + 300
    while "requeue" not in marks:
        state, _, facts = world.project.run("login", "sh", "-c", ask).partition("\n")
        now = time.time()
        again = "Restarts=0 " not in facts and "JobState=RUNNING " in facts
        if "detection" not in marks and state.startswith("down"):
            marks["detection"] = now
            engine.start(world.project.container(node))
        elif "detection" in marks and "back" not in marks and state in ("idle", "mixed", "allocated"):
            marks["back"] = now
        if again:
            marks["requeue"] = now
        if time.monotonic() > deadline:
            raise Failure(f"job {run.id} does not run again 300 s after the end of {node}: {state}, {facts}")
        time.sleep(0.5)
    return marks


def _import_torch(world: World) -> float:
    """Seconds of `import torch` in a job on one node, with the resources that the training has there."""
    code = "import time; begin = time.perf_counter(); import torch; print(time.perf_counter() - begin)"
    resources = ("--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--mem=3G", "--gres=gpu:1")
    return float(world.slurm("srun", *resources, "/opt/stack/current/bin/python", "-c", code))
