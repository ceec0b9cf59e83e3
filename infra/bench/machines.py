"""Clusters of machines (clusters/site.yaml): made, made again, grown, and configured among 3 or 30.

The first three are typed as a person types them, in a copy of the checkout; their phases are the commands' own
steps. The last one has many small machines, which are looked at and not configured: see `growth`.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.base import keypair, paths
from infra.base.errors import Failure
from infra.base.progress import Step
from infra.bench import world as worlds
from infra.bench.cluster import STEP, steps
from infra.bench.figure import Figure, Result
from infra.bench.world import MANY, SITE, World
from infra.images import targets
from infra.model.cluster import Cluster
from infra.model.host import read_host
from infra.model.load import load_cluster

UP_GOAL_S, SECOND_GOAL_S, ADD_GOAL_S = 300, 60, 40
REPEATS = 3
CIDR = "10.82.0.0/24"
COUNTS = (3, 10, 30)  # compute machines of `growth`
MANY_FILE = """\
name: {name}
description: {count} small machines that are looked at
place: docker
schedulers: [slurm]
services: {{hardware: lab-cpu, controller: head, accounting: head, database: head, login: head}}
pools:
  n: {{hardware: lab-cpu, count: {count}, partition: all}}
partitions: {{all: {{default: true}}}}
qos: {{normal: {{priority: 100}}}}
accounts: {{research: {{description: Bench, qos: [normal]}}}}
users: {{ml: {{accounts: [research]}}}}
machines: {{cidr: {cidr}}}
"""


def site(world: World) -> Result:
    """Plan and up of clusters/site.yaml, from no machine to the first training step."""
    file = cluster_file(world)
    world.down_machines()
    world.run(*_plan(world, file), ok=(1,))  # builds the machine image where it is missing
    planned, said = _typed(lambda: world.run(*_plan(world, file), ok=(1,)))  # 1: there is something to make
    plan_steps = phases(said)
    began = time.time()
    said = world.make("cluster-up", f"CLUSTER={file}")
    seconds = _first_step(world) - began
    machines = len(json.loads((world.checkout / "build" / SITE / "machines.json").read_text())["machines"])
    return Result(
        "site",
        f"clusters/site.yaml with {machines} machines: `python -m infra plan` where there is none, then `make"
        " cluster-up` typed, to the end of the first training step by the job's clock; images, tools and Pulumi"
        " are there, machines are made new and have nothing but SSH; phases are those of up",
        [
            Figure(f"plan of {machines} machines that are not there", planned, "s"),
            Figure("  of it Pulumi's preview", plan_steps["machines"], "s"),
            Figure(f"up of {machines} machines to the first training step", seconds, "s", UP_GOAL_S, "goal"),
        ],
        steps(said, seconds),
    )


def second(world: World) -> Result:
    """`make cluster-up` and plan on machines where there is nothing to do."""
    file = _ensure(world)
    took, told = [], ""
    for _ in range(REPEATS):
        seconds, told = _typed(lambda: world.make("cluster-up", f"CLUSTER={file}", "JOB="))
        took.append(seconds)
        if "nothing to change" not in told:
            raise Failure(f"a second `make cluster-up` changed something: {told.strip()}")
    planned, _ = _typed(lambda: world.run(*_plan(world, file)))
    return Result(
        "site-second",
        "`make cluster-up CLUSTER=clusters/site.yaml` on machines that are as the files say, which must say that"
        f" nothing is to change; median of {REPEATS}; phases of the last; plan: once, which must find no change",
        [
            Figure("second cluster-up of 4 machines", statistics.median(took), "s", SECOND_GOAL_S, "goal"),
            Figure("  plan of them", planned, "s"),
        ],
        rest(phases(told), took[-1]),
    )


def grow(world: World) -> Result:
    """One node more, and one less."""
    file = _ensure(world)
    cluster_file(world, count=3)
    try:
        added, told = _typed(lambda: world.make("cluster-up", f"CLUSTER={file}", "JOB="))
        if "made gpu-3" not in told:
            raise Failure(f"`make cluster-up` after count: 2 -> 3 made no gpu-3: {told.strip()}")
    finally:
        cluster_file(world)
    removed, told_less = _typed(lambda: world.make("cluster-up", f"CLUSTER={file}", "JOB="))
    if "removed gpu-3" not in told_less:
        raise Failure(f"`make cluster-up` after count: 3 -> 2 removed no gpu-3: {told_less.strip()}")
    return Result(
        "site-grow",
        "`count: 2` to `3` in the cluster file, `make cluster-up` typed, to its end: Slurm can use the new node and"
        " all machines are checked; then back, with a drain of the idle node; phases are those of the first",
        [
            Figure("one node more on 4 machines", added, "s", ADD_GOAL_S, "goal"),
            Figure("  one node less", removed, "s"),
        ],
        rest(phases(told), added),
    )


def growth(counts: Sequence[int] = COUNTS) -> Result:
    """What one machine, and what all of them, cost Ansible when there are few and many in the inventory."""
    from infra.places.site.steps import tools

    made: dict[int, float] = {}
    one: dict[int, float] = {}
    every: dict[int, float] = {}
    tasks = 0
    with worlds.alone():
        try:
            tools(Step("tools", None))
            for count in counts:
                made[count], cluster = _make(count)
                last = cluster.pools[0].nodes[-1]
                looks = [_look(cluster, [last]) for _ in range(REPEATS)]
                one[count], tasks = statistics.median(took for took, _ in looks), looks[0][1]
                every[count], _ = _look(cluster, ["head", *cluster.pools[0].nodes])
        finally:
            worlds.remove_machines(MANY)
            shutil.rmtree(paths.build(MANY), ignore_errors=True)
            _many_file().unlink(missing_ok=True)
    return Result(
        "growth",
        f"machines of this host that have nothing but SSH, {counts[0]} to {counts[-1]} of them and a controller,"
        " made by Pulumi with those before them left as they are; ansible/site.yml in check mode from start to end:"
        f" --limit of the newest machine ({tasks} tasks), median of {REPEATS}, and of all, once; the machines"
        " and Ansible share this host's cores",
        growth_figures(counts, made, one, every),
    )


def growth_figures(
    counts: Sequence[int], made: dict[int, float], one: dict[int, float], every: dict[int, float]
) -> list[Figure]:
    """One of many beside one of few; all beside one after the other."""
    few = counts[0]
    found = []
    for before, count in zip((0, *counts), counts, strict=False):
        limit = (one[few], f"1 of {few}") if count != few else (None, "")
        found.append(Figure(f"dry run for 1 of {count} machines", one[count], "s", *limit))
        found.append(
            Figure(
                f"dry run for all of {count} machines and their controller",
                every[count],
                "s",
                one[few] * (count + 1),
                f"{count + 1} x 1 machine",
            )
        )
        found.append(Figure(f"  Pulumi: from {before} machines to {count}", made[count], "s"))
    return found


def cluster_file(world: World, count: int = 2) -> Path:
    """clusters/site.yaml of the copy, with the bench's name and network and `count` nodes."""
    file = world.checkout / "build" / f"{SITE}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(renamed((world.checkout / "clusters/site.yaml").read_text(), count))
    return file


def renamed(text: str, count: int) -> str:
    """The text of clusters/site.yaml as the bench's. Raises Failure when it is not as expected."""
    for old, new in (
        ("\nname: site\n", f"\nname: {SITE}\n"),
        ("cidr: 10.77.0.0/24", f"cidr: {CIDR}"),
        ("count: 2\n", f"count: {count}\n"),
    ):
        if text.count(old) != 1:
            raise Failure(f"clusters/site.yaml: the bench looks for {old.strip()!r} once in it")
        text = text.replace(old, new)
    return text


def phases(said: str) -> dict[str, float]:
    """Seconds of every step that a command printed."""
    return {name: float(took) for name, took in STEP.findall(said)}


def rest(found: dict[str, float], seconds: float) -> dict[str, float]:
    """`found`, and what of `seconds` was in none of the steps: Python's start, locks, records."""
    return {**found, "rest": max(0.0, seconds - sum(found.values()))}


def _ensure(world: World) -> Path:
    """The cluster's file; it is up, with nothing to do."""
    file = cluster_file(world)
    world.make("cluster-up", f"CLUSTER={file}", "JOB=")
    return file


def _plan(world: World, file: Path) -> list[str | Path]:
    return [world.checkout / ".venv/bin/python", "-m", "infra", "plan", file]


def _first_step(world: World) -> float:
    """Unix time at which the job that proved the cluster had made its first step."""
    folder = world.checkout / "build" / SITE
    proved = json.loads((folder / "state.json").read_text())["proved"]
    first = json.loads((folder / "runs" / proved / "attempts.jsonl").read_text().splitlines()[0])
    return float(first["first_step_unix"])


def _typed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def _many_file() -> Path:
    return paths.CHECKOUT / "build" / f"{MANY}.yaml"


def _many(count: int) -> Cluster:
    """A cluster of `count` small machines. Their memory is a bound, not taken: this host need not have all of it."""
    _many_file().parent.mkdir(exist_ok=True)
    _many_file().write_text(MANY_FILE.format(name=MANY, count=count, cidr=CIDR))
    return load_cluster(_many_file(), host=replace(read_host(), memory_mib=1_000_000))


def _make(count: int) -> tuple[float, Cluster]:
    """Have Pulumi make them, and write what Ansible needs; the seconds are Pulumi's."""
    from infra.places import secrets
    from infra.places.site import steps
    from infra.places.site.site import Site
    from infra.render import render, write

    cluster = _many(count)
    targets.ensure(steps.wanted(cluster), Step("images", None))
    folder = paths.build(cluster.name)
    write(render(cluster), folder)
    secrets.ensure(cluster.name)
    keypair.ensure(folder / "secrets" / "admin", "slipway")
    seconds, _ = _typed(lambda: steps.provision(Site(cluster), Step("machines", None)))
    return seconds, cluster


def _look(cluster: Cluster, machines: list[str]) -> tuple[float, int]:
    """Seconds of a dry run on `machines`, and how many tasks it had. Raises Failure when it could not tell."""
    from infra.places.site.play import play
    from infra.places.site.site import Site
    from infra.places.site.steps import variables

    here = Site(cluster)
    seconds, played = _typed(lambda: play(here, check=True, limit=machines, variables=variables(here)))
    if played.broken or played.hosts != set(machines):
        name, why = next(iter(played.broken.items()), ("none", "it did not run on all of them"))
        raise Failure(f"dry run on {len(machines)} machines: {name}: {why}")
    return seconds, played.tasks
