"""What the machine and the job could do, and what they do: each figure beside its limit, measured in one run.

    python -m jobs.bench ddp            two ranks beside one on the same cores, and beside their bound
    python -m jobs.bench allreduce      all-reduce by size, beside TCP between the same processes
    python -m jobs.bench checkpoint     write beside the disk, stall beside a copy in memory
    python -m jobs.bench gemm           matrix products by precision

Starts its own ranks (`--ranks=2`) on this machine, one thread each; inside torchrun it uses the ranks that
are there. `--json` prints one object for each figure. Medians of several rounds that take turns, so that a
noisy moment hits alike what is compared.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark: a value, its limit, and their ratio (1 is the limit reached)."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    limit_name: str = ""

    @property
    def ratio(self) -> float | None:
        """How close to the limit: for times the limit over the value, for rates the value over the limit."""
        if not self.limit:
            return None
        return self.limit / self.value if self.unit in ("s", "ms") else self.value / self.limit

    def line(self) -> str:
        text = f"{self.name:<44}{self.value:>10.4g} {self.unit:<8}"
        if self.limit is None:
            return text.rstrip()
        return f"{text}{self.ratio:>6.0%} of {self.limit_name}: {self.limit:.4g} {self.unit}"


def ddp(ranks: Any) -> list[Figure]:
    """A training step of jobs/ddp.yaml's default model.

    Bound of a step on several ranks: its share of the batch with nothing to exchange, computed by all ranks
    at once, plus an all-reduce of as many bytes as the gradient. DDP hides some of the latter behind the
    former, so more than 100 % is possible. One rank on the same cores: rank 0 with the whole batch and a
    thread for each rank, while the others wait.
    """
    import torch
    import torch.distributed as dist

    from jobs import config, model, optim, parallel

    settings = config.Config()
    share = settings.train.batch // ranks.size
    cores = sorted(os.sched_getaffinity(0))

    def stepper(batch: int, spread: bool) -> Callable[[], None]:
        network = model.GPT(settings.model).to(ranks.device)
        used = parallel.spread(network, ranks) if spread else network
        optimizer = optim.make(used, settings.train)
        tokens = torch.randint(256, (batch, settings.model.context + 1), device=ranks.device)

        def step() -> None:
            model.loss(used(tokens[:, :-1]), tokens[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    together, apart = stepper(share, spread=True), stepper(share, spread=False)
    whole = stepper(settings.train.batch, spread=False)
    weights = sum(p.numel() for p in model.GPT(settings.model).parameters())
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


def allreduce(ranks: Any) -> list[Figure]:
    """Bus bandwidth, 2 (n - 1) / n x bytes / time as nccl-tests defines it, beside what TCP carries.

    The link: rank 0 and rank 1 each send and receive at once over a plain socket, as a ring all-reduce of two
    ranks does; the rate of one direction.
    """
    import torch
    import torch.distributed as dist

    figures = []
    link = _tcp_bytes_per_s(ranks)
    for size in (2**12, 2**16, 2**20, 2**22, 2**24, 2**26):
        buffer = torch.zeros(size // 4, device=ranks.device)
        took = _rounds({"all-reduce": partial(dist.all_reduce, buffer)}, ranks, rounds=15)["all-reduce"]
        rate = 2 * (ranks.size - 1) / ranks.size * size / took
        name = f"all-reduce {size / 1024:>8.0f} KiB, {took * 1e3:8.3f} ms"
        figures.append(Figure(name, rate / 1e9, "GB/s", link / 1e9, "TCP, both ways at once"))
    return figures


def checkpoint(ranks: Any) -> list[Figure]:
    """Save a state of some 300 MB: behind the training, beside the same bytes written and synced plainly.

    The disk: every rank writes its share to one file and syncs it. The copy: the state's bytes copied in
    memory, which is the least that an asynchronous save keeps the training waiting for.
    """
    import torch

    from jobs import config
    from jobs.checkpoint import Checkpoints
    from jobs.mesh import Mesh
    from jobs.trainable import Trainable

    settings = config.Config(model=config.Model(layers=8, heads=8, width=512, context=64))
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


def gemm(ranks: Any) -> list[Figure]:
    """Square matrix products on rank 0's device, by the precisions that it has."""
    import torch

    size, figures = (8192, []) if ranks.device.type == "cuda" else (1024, [])
    for kind in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=ranks.device).to(kind) for _ in range(2))
        took = _rounds({"gemm": partial(torch.matmul, a, b)}, ranks, rounds=9)["gemm"]
        figures.append(
            Figure(f"product of {size} x {size}, {str(kind)[6:]}", 2 * size**3 / took / 1e9, "GFLOP/s")
        )
    return figures


BENCHMARKS: dict[str, Callable[[Any], list[Figure]]] = {
    "ddp": ddp,
    "allreduce": allreduce,
    "checkpoint": checkpoint,
    "gemm": gemm,
}


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


def _tcp_bytes_per_s(ranks: Any, size: int = 256 << 20) -> float:
    """Rate of one direction of a socket between rank 0 and rank 1 while both directions are busy."""
    import threading

    if ranks.size < 2:
        raise SystemExit("allreduce: needs two ranks or more; use --ranks=2")
    server = socket.create_server(("", 0)) if ranks.first else None
    address = ranks.told((socket.gethostname(), server.getsockname()[1]) if server else None)
    rate = 0.0
    if ranks.rank < 2:
        end = server.accept()[0] if server else socket.create_connection(address)
        block = memoryview(bytearray(1 << 20))
        start = time.perf_counter()

        def send() -> None:
            for _ in range(size // len(block)):
                end.sendall(block)

        sender = threading.Thread(target=send)
        sender.start()
        into, got = bytearray(1 << 20), 0
        while got < size:
            got += end.recv_into(into)
        sender.join()
        rate = size / (time.perf_counter() - start)
        end.close()
    if server:
        server.close()
    told: float = ranks.told(rate)
    return told


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--ranks", type=int, default=2, help="ranks to start on this machine (2)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each figure")
    chosen = parser.parse_args(arguments)
    if "RANK" not in os.environ:
        Path("runs").mkdir(exist_ok=True)
        launch = [sys.executable, "-m", "jobs.torchrun", "--standalone", f"--nproc-per-node={chosen.ranks}"]
        return subprocess.run([*launch, "-m", "jobs.bench", *arguments], check=False).returncode

    import torch

    from jobs import parallel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks = parallel.start(60)
    figures = BENCHMARKS[chosen.name](ranks)
    if ranks.first:
        for figure in figures:
            facts = {"benchmark": chosen.name, **asdict(figure), "ratio": figure.ratio}
            print(json.dumps(facts) if chosen.json else figure.line(), flush=True)
    ranks.wait()
    parallel.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
