"""Collectives as a workload: each operation at each size, checked, timed, and beside the measured link.

    python -m jobs.torchrun --standalone --nproc-per-node=2 -m jobs.collectives
    python -m jobs.torchrun --standalone --nproc-per-node=2 -m jobs.collectives --sweep.sizes=1KiB..64MiB --json
    sbatch jobs/collectives.sbatch --sweep.dtype=bfloat16

Bandwidths are those of nccl-tests (doc/PERFORMANCE.md there): for S bytes in t seconds the algorithm bandwidth
is S / t, and the bus bandwidth is that times a factor of the operation, so that it compares with the link
whatever the number of ranks. t is the mean of `iterations` calls in a row and of all ranks, as there; of
`rounds` such means the median is taken. NCCL where there are GPUs, else gloo.

A run leaves config.yaml and collectives.json in its folder. A result that is wrong ends it with exit code 1.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.cli import options
from jobs.cli.errors import Failure, Mistake
from jobs.collectives.sweep import OPERATIONS, SOURCE, Config, Sweep, load, operations, size_text, sizes

STREAM = 32 << 20  # bytes that a measurement of the link moves

Tensor = Any  # torch's: the options are checked without it


@dataclass(frozen=True)
class Measured:
    """One line of the table. Bandwidths in 10^9 bytes per second; `link` and `memcpy` where they bound it."""

    operation: str
    bytes: int
    seconds: float
    algorithm_gb_per_s: float
    bus_gb_per_s: float
    link_gb_per_s: float | None
    memcpy_gb_per_s: float | None

    def line(self) -> str:
        text = f"{self.operation:<15}{size_text(self.bytes):>10}{self.seconds * 1e3:>11.3f} ms"
        text += f"{self.algorithm_gb_per_s:>11.3f}{self.bus_gb_per_s:>9.3f}"
        for limit in (self.link_gb_per_s, self.memcpy_gb_per_s):
            text += f"{self.bus_gb_per_s / limit:>9.0%}" if limit else f"{'-':>9}"
        return text


HEAD = f"{'operation':<15}{'size':>10}{'time':>14}{'algorithm':>11}{'bus':>9}{'of link':>9}{'of copy':>9}"


@dataclass
class Case:
    """An operation on tensors of one size: `source` is this rank's input, `result` what it gets."""

    source: Tensor
    result: Tensor
    run: Callable[[], Any]
    content: Tensor  # what source is filled with for the check
    expected: Tensor  # what result must be then

    def check(self) -> str | None:
        """Run it once; what is wrong with the result, or None. Called by all ranks."""
        self.result.fill_(99)
        self.source.copy_(self.content)
        self.run()
        wrong = (self.result != self.expected).nonzero().flatten()
        if not len(wrong):
            return None
        at = int(wrong[0])
        found, right = self.result[at].item(), self.expected[at].item()
        return f"{len(wrong)} of {len(self.result)} elements are wrong; element {at} is {found}, should be {right}"


def make(name: str, size: int, dtype: str, ranks: Any) -> Case:
    """The case of an operation with S = `size` bytes, or a little less, so that all ranks have whole parts.

    Contents are small whole numbers, whose sums every type holds exactly: of up to 42 ranks in int8, 85 in
    bfloat16. Raises Mistake when there is not one element for each rank.
    """
    import torch
    import torch.distributed as dist

    from jobs.parallel import versions

    kind = getattr(torch, dtype)
    rank, n = ranks.rank, ranks.size
    count = size // kind.itemsize
    if OPERATIONS[name].divided:
        count -= count % n
    if not count:
        raise Mistake(f"sweep.sizes: {size_text(size)} is less than one {dtype} for each of {n} ranks")

    def numbers(of: int, length: int, below: int, start: int = 0) -> Tensor:
        """What rank `of` has at `length` places from `start` on."""
        places = torch.arange(start, start + length, device=ranks.device)
        return ((places * 31 + of * 17) % below).to(kind)

    def total(length: int, start: int = 0) -> Tensor:
        return torch.stack([numbers(of, length, 4, start) for of in range(n)]).sum(0, dtype=kind)

    def empty(length: int) -> Tensor:
        return torch.empty(length, dtype=kind, device=ranks.device)

    part = count // n
    if name == "all-reduce":
        buffer = empty(count)
        return Case(buffer, buffer, lambda: dist.all_reduce(buffer), numbers(rank, count, 4), total(count))
    if name == "broadcast":
        buffer = empty(count)
        content = numbers(0, count, 97)
        mine = content if ranks.first else torch.zeros_like(content)
        return Case(buffer, buffer, lambda: dist.broadcast(buffer, src=0), mine, content)
    if name == "all-gather":
        source, result = empty(part), empty(count)
        everyone = torch.cat([numbers(of, part, 97) for of in range(n)])
        return Case(
            source,
            result,
            lambda: versions.all_gather(result, source),
            numbers(rank, part, 97),
            everyone,
        )
    if name == "reduce-scatter":
        source, result = empty(count), empty(part)
        return Case(
            source,
            result,
            lambda: versions.reduce_scatter(result, source),
            numbers(rank, count, 4),
            total(part, rank * part),
        )
    if name == "all-to-all":
        source, result = empty(count), empty(count)
        parts = torch.cat([numbers(of, part, 97, rank * part) for of in range(n)])
        return Case(
            source,
            result,
            lambda: dist.all_to_all_single(result, source),
            numbers(rank, count, 97),
            parts,
        )
    source, result = empty(count), empty(count)

    def exchange() -> None:
        both = [
            dist.P2POp(dist.isend, source, (rank + 1) % n),
            dist.P2POp(dist.irecv, result, (rank - 1) % n),
        ]
        for work in dist.batch_isend_irecv(both):
            work.wait()

    return Case(source, result, exchange, numbers(rank, count, 97), numbers((rank - 1) % n, count, 97))


def seconds(case: Case, ranks: Any, sweep: Sweep) -> float:
    """Time of one call, as nccl-tests tells it: the mean of calls in a row, then of ranks; the median of rounds."""
    import torch

    def finished() -> None:
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()

    case.source.zero_()  # sums of sums would overflow
    for _ in range(sweep.warmup):
        case.run()
    times = []
    for _ in range(sweep.rounds):
        finished()
        ranks.wait()
        start = time.perf_counter()
        for _ in range(sweep.iterations):
            case.run()
        finished()
        (total,) = ranks.agree([(time.perf_counter() - start) / sweep.iterations])
        times.append(total / ranks.size)
    return statistics.median(times)


def measure(sweep: Sweep, ranks: Any, given_gb_per_s: float = 0.0) -> tuple[list[Measured], dict[str, float]]:
    """Every operation at every size, and the links that they are held against, in bytes per second.

    The link of gloo is measured with plain sockets before each of them, and the median of these is taken;
    NCCL's is `given_gb_per_s`. Copies in memory bound what ranks of one host do, and there is none for others.
    Raises Failure, on all ranks, when a result is wrong.
    """
    from jobs.cluster.address import address
    from jobs.collectives import link

    one_host = len(set(ranks.gathered(address()))) == 1
    gpu = ranks.device.type == "cuda"
    ring = None if gpu else link.Ring(ranks)
    rates: dict[str, list[float]] = {"all at once": [], "one way": []}
    times: list[tuple[str, int, float]] = []
    for name in operations(sweep):
        for size in sizes(sweep):
            if ring:  # each time: a noisy moment then hits the link as it hits what is held against it
                rates["all at once"].append(ring.all_at_once(STREAM))
                rates["one way"].append(ring.one_way(STREAM))
            case = make(name, size, sweep.dtype, ranks)
            wrong = [
                f"{name} of {size_text(size)} {sweep.dtype} on rank {rank}: {what}"
                for rank, what in enumerate(ranks.gathered(case.check()))
                if what
            ]
            if wrong:
                raise Failure("\n".join(wrong))
            whole = max(len(case.source), len(case.result)) * case.source.element_size()
            times.append((name, whole, seconds(case, ranks, sweep)))
    links = {way: statistics.median(rates[way]) for way in rates if rates[way]}
    if gpu and given_gb_per_s:
        links = dict.fromkeys(rates, given_gb_per_s * 1e9)
    if one_host:
        links["memcpy"] = link.memcpy(ranks, STREAM)
    if ring:
        ring.close()
    return [_measured(*each, ranks.size, links) for each in times], links


def _measured(name: str, size: int, took: float, n: int, links: dict[str, float]) -> Measured:
    operation = OPERATIONS[name]
    tcp, copy = links.get("one way" if operation.one_way else "all at once"), links.get("memcpy")
    return Measured(
        name,
        size,
        took,
        size / took / 1e9,
        size / took / 1e9 * operation.factor(n),
        tcp / 1e9 if tcp else None,
        copy / 1e9 if copy else None,
    )


def run(config: Config, *, as_json: bool) -> None:
    """Measure, print, and leave collectives.json. On all ranks. Raises Mistake and Failure."""
    import torch

    from jobs.parallel import ranks as world
    from jobs.telemetry import claim
    from jobs.telemetry import folder as runfolder

    torch.set_num_threads(1)
    ranks = world.start(config.run.peer_timeout_s)
    if ranks.size < 2:
        raise Mistake("collectives: need two ranks or more; start it with jobs.torchrun --nproc-per-node=2")
    folder = ranks.decided(lambda: claim.choose(config.run.folder))
    hosts = list(dict.fromkeys(ranks.gathered(runfolder.host())))
    way = "NCCL on GPUs" if ranks.device.type == "cuda" else "gloo on CPU"
    if ranks.simulated:
        way = "GPUs simulated: gloo on CPU"
    if ranks.first:
        claim.keep_config(folder, options.to_yaml(config))
        claim.link_latest(folder)
    results, links = measure(config.sweep, ranks, config.link.gb_per_s)
    if ranks.first:
        facts = {
            "ranks": ranks.size,
            "hosts": hosts,
            "backend": way,
            "stack": runfolder.stack(),
            "dtype": config.sweep.dtype,
            "links_gb_per_s": {name: rate / 1e9 for name, rate in links.items()},
            "links_measured": ranks.device.type != "cuda",
            "definition": SOURCE,
            "factors": {name: OPERATIONS[name].factor(ranks.size) for name in operations(config.sweep)},
            "results": [asdict(each) for each in results],
        }
        runfolder.write_json(folder / "collectives.json", facts)
        if as_json:
            print(json.dumps(facts), flush=True)
        else:
            print("\n".join(_table(folder, facts, results)), flush=True)
    ranks.wait()
    world.end()


def _table(folder: Path, facts: dict[str, Any], results: list[Measured]) -> list[str]:
    links = facts["links_gb_per_s"]
    nodes = len(facts["hosts"])
    if "all at once" not in links:
        limit = "the link is not known: give --link.gb_per_s"
    elif facts["links_measured"]:
        limit = (
            f"link: TCP sockets, all ranks at once {links['all at once']:.2f} GB/s (one way, for broadcast:"
            f" {links['one way']:.2f})"
        )
    else:
        limit = f"link, as given: {links['all at once']:.1f} GB/s"
    copy = f"; copy in memory: {links['memcpy']:.2f} GB/s" if "memcpy" in links else ""
    return [
        f"{folder}: {facts['ranks']} ranks on {nodes} node{'s' if nodes > 1 else ''}, {facts['backend']}, "
        f"{facts['dtype']}; bandwidths in GB/s, every result was right",
        limit + copy,
        HEAD,
        *(each.line() for each in results),
    ]


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__, options.help_text(Config), sep="\n")
        return 0
    first = os.environ.get("RANK", "0") == "0"
    try:
        config = load([word for word in arguments if word != "--json"])
        run(config, as_json="--json" in arguments)
    except (Mistake, Failure) as error:
        if first:  # all ranks know of it
            print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)  # a rank that waits for others must not hold it up
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
