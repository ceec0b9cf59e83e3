"""What several ranks are measured at: training beside its bound, all-reduce, checkpoints.

Every way that is compared takes turns with the others, so that a noisy moment hits all of them; medians.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jobs.bench.figure import Figure


def ddp(ranks: Any) -> list[Figure]:
    """A training step of jobs/ddp.yaml's default model.

    Bound of a step on several ranks: its share of the batch with nothing to exchange, computed by all ranks
    at once, plus an all-reduce of as many bytes as the gradient. DDP hides some of the latter behind the
    former, so more than 100 % is possible. One rank on the same cores: rank 0 with the whole batch and a
    thread for each rank, while the others wait.
    """
    import torch
    import torch.distributed as dist

    from jobs import config
    from jobs.model import of, optim
    from jobs.parallel import spread as parallel

    settings = config.Config()
    model = of(settings.model)
    share = settings.train.batch // ranks.size
    cores = sorted(os.sched_getaffinity(0))

    def stepper(batch: int, spread: bool) -> Callable[[], None]:
        network = model.build(settings.model).to(ranks.device)
        used = parallel.spread(network, ranks) if spread else network
        optimizer = optim.make(used, settings.train, model.decays)
        tokens = torch.randint(256, (batch, settings.model.context + 1), device=ranks.device)

        def step() -> None:
            model.loss(used(tokens[:, :-1]), tokens[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    together, apart = stepper(share, spread=True), stepper(share, spread=False)
    whole = stepper(settings.train.batch, spread=False)
    weights = sum(p.numel() for p in model.build(settings.model).parameters())
    gradient = torch.zeros(weights, device=ranks.device)

    def alone() -> None:
        if ranks.first:
            torch.set_num_threads(min(ranks.size, len(cores)))
            whole()
            torch.set_num_threads(1)

    ways: dict[str, Callable[[], Any]] = {
        "ddp": together,
        "local": apart,
        "all-reduce": partial(dist.all_reduce, gradient),
        "one": alone,
    }
    took = _rounds(ways, ranks, rounds=15)
    tokens = settings.train.batch * settings.model.context
    bound = took["local"] + took["all-reduce"]
    return [
        Figure(f"step, {ranks.size} ranks", took["ddp"], "s", bound, "its compute + all-reduce"),
        Figure("  of it compute, nothing exchanged", took["local"], "s"),
        Figure(f"  all-reduce of {weights * 4 / 2**20:.1f} MiB", took["all-reduce"], "s"),
        Figure(f"step, 1 rank with {ranks.size} threads", took["one"], "s"),
        Figure(
            f"training, {ranks.size} ranks",
            tokens / took["ddp"],
            "tokens/s",
            tokens / took["one"],
            "1 rank on the same cores",
        ),
    ]


def scaling(ranks: Any) -> list[Figure]:
    """Training of jobs/ddp.yaml's default model on 1, 2, 4 ... ranks of this world, the same global batch.

    Two bounds: its compute with nothing exchanged, by all ranks at once, plus an all-reduce of the gradient; and
    one rank, as often as there are ranks or, on CPU, cores for them. Ranks that have no part in a size wait.
    """
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from jobs import config
    from jobs.model import of, optim

    settings = config.Config()
    model = of(settings.model)
    sizes = [n for n in (1, 2, 4, 8, 16, 32) if n <= ranks.size]
    groups = {n: dist.new_group(list(range(n))) for n in sizes}
    gradient = torch.zeros(
        sum(p.numel() for p in model.build(settings.model).parameters()), device=ranks.device
    )

    def stepper(n: int, spread: bool) -> Callable[[], None]:
        network = model.build(settings.model).to(ranks.device)
        used: Any = DistributedDataParallel(network, process_group=groups[n]) if spread else network
        optimizer = optim.make(network, settings.train, model.decays)
        rows = torch.randint(
            256, (settings.train.batch // n, settings.model.context + 1), device=ranks.device
        )

        def step() -> None:
            model.loss(used(rows[:, :-1]), rows[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def nothing() -> None:
        pass

    ways: dict[str, Callable[[], Any]] = {}
    for n in sizes:
        inside = ranks.rank < n
        ways[f"{n} ddp"] = stepper(n, spread=True) if inside else nothing
        ways[f"{n} compute"] = stepper(n, spread=False) if inside else nothing
        ways[f"{n} all-reduce"] = partial(dist.all_reduce, gradient, group=groups[n]) if inside else nothing
    took = _rounds(ways, ranks, rounds=7)
    tokens = settings.train.batch * settings.model.context
    cores = len(os.sched_getaffinity(0)) if ranks.device.type == "cpu" else ranks.size
    one = tokens / took["1 ddp"]
    figures = []
    for n in sizes:
        bound = took[f"{n} compute"] + (took[f"{n} all-reduce"] if n > 1 else 0.0)
        figures.append(Figure(f"step on {n} ranks", took[f"{n} ddp"], "s", bound, "its compute + all-reduce"))
        best, name = one * min(n, cores), f"{min(n, cores)} x 1 rank"
        figures.append(Figure(f"training on {n} ranks", tokens / took[f"{n} ddp"], "tokens/s", best, name))
    return figures


def allreduce(ranks: Any) -> list[Figure]:
    """Bus bandwidth by size, as jobs/collectives measures it, beside plain TCP sockets between all ranks."""
    from jobs.collectives import __main__ as collectives
    from jobs.collectives.sweep import Sweep

    if ranks.size < 2:
        raise SystemExit("allreduce: needs two ranks or more; use --ranks=2")
    sweep = Sweep(operations="all-reduce", sizes="4KiB,64KiB,1MiB,4MiB,16MiB,64MiB", iterations=5, rounds=5)
    measured, _ = collectives.measure(sweep, ranks)
    return [
        Figure(
            f"all-reduce {each.bytes / 1024:>8.0f} KiB, {each.seconds * 1e3:8.3f} ms",
            each.bus_gb_per_s,
            "GB/s",
            each.link_gb_per_s,
            "TCP, all ranks at once",
        )
        for each in measured
    ]


def checkpoint(ranks: Any) -> list[Figure]:
    """Save a state of some 300 MB: behind the training, beside the same bytes written and synced plainly.

    The disk: every rank writes its share to one file and syncs it. The copy: the state's bytes copied in
    memory, which is the least that an asynchronous save keeps the training waiting for.
    """
    import torch

    from jobs import config
    from jobs.parallel.mesh import Mesh
    from jobs.resilience.checkpoint import Checkpoints
    from jobs.trainable import Trainable

    settings = config.load(["--model.layers=8", "--model.heads=8", "--model.width=512", "--model.context=64"])
    trained = Trainable(settings, Mesh(replicate=ranks.size), ranks)
    trained.step_loss(torch.randint(256, (1, 65), device=ranks.device))
    trained.step()
    state = [p.detach() for p in trained.model.parameters()] * 3  # weights and two moments of Adam
    size = sum(each.numel() * each.element_size() for each in state)
    room = Path(ranks.told(tempfile.mkdtemp(prefix="bench-", dir="runs") if ranks.first else None))
    saves = Checkpoints(room, keep=1, facts={}, ranks=ranks, say=lambda line: print(line, flush=True))
    content = memoryview(bytearray(os.urandom(2**20) * (size // ranks.size // 2**20)))
    copies = [torch.empty_like(each, device="cpu") for each in state]
    stalls: list[float] = []
    count = 0

    def save() -> None:
        nonlocal count
        count += 1
        start = time.perf_counter()
        saves.save(count, trained)
        stalls.append(time.perf_counter() - start)
        if not saves.finish():
            raise SystemExit(1)

    def plain() -> None:
        path = room / f"plain-{ranks.rank}"
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()

    def copy() -> None:
        for source, target in zip(state, copies, strict=True):
            target.copy_(source)

    try:
        took = _rounds({"save": save, "plain": plain, "copy": copy}, ranks, rounds=5)
    finally:
        saves.close()
        ranks.wait()
        if ranks.first:
            shutil.rmtree(room, ignore_errors=True)
    stall = statistics.median(stalls[1:])  # the first allocates the buffers
    return [
        Figure(
            f"checkpoint of {size / 1e6:.0f} MB: write, hash, commit",
            size / took["save"] / 1e9,
            "GB/s",
            size / took["plain"] / 1e9,
            "the disk, written and synced plainly",
        ),
        Figure("  stall of the training", stall, "s", took["copy"], "a copy in memory"),
        Figure("  whole save", took["save"], "s"),
    ]


def _rounds(ways: dict[str, Callable[[], Any]], ranks: Any, rounds: int) -> dict[str, float]:
    """Median seconds of each way, as rank 0 sees it; the ways take turns, after two rounds of warming up."""
    import torch

    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, way in ways.items():
            ranks.wait()
            start = time.perf_counter()
            way()
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                took[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in took.items()}


MEASURES: dict[str, Callable[[Any], list[Figure]]] = {
    "ddp": ddp,
    "scaling": scaling,
    "allreduce": allreduce,
    "checkpoint": checkpoint,
}
