"""What jobs.collectives can be told: operations with their factors, sizes, types. No torch.

`python -m jobs.collectives.sweep` with the same arguments only checks them, as `python -m jobs.config`
does for training.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jobs.cli import options
from jobs.cli.errors import Mistake
from jobs.cli.options import option

SOURCE = "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md"
UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}


@dataclass(frozen=True)
class Operation:
    """How an operation's time becomes a bandwidth.

    `factor` of the number of ranks makes the algorithm bandwidth the bus bandwidth: see SOURCE, "Summary"; of
    point to point it is 1 in nccl-tests' src/sendrecv.cu. `one_way`: one rank's link is the bottleneck in one
    direction; else every rank sends and receives at once. `divided`: S is the whole array, of which each rank
    puts in or gets the n-th part.
    """

    factor: Callable[[int], float]
    one_way: bool = False
    divided: bool = False


OPERATIONS = {
    "all-reduce": Operation(lambda n: 2 * (n - 1) / n),
    "all-gather": Operation(lambda n: (n - 1) / n, divided=True),
    "reduce-scatter": Operation(lambda n: (n - 1) / n, divided=True),
    "all-to-all": Operation(lambda n: (n - 1) / n, divided=True),
    "broadcast": Operation(lambda n: 1.0, one_way=True),
    "point-to-point": Operation(lambda n: 1.0),  # each rank to the next one
}


@dataclass(frozen=True)
class Sweep:
    operations: str = option("all", f"all, or some of: {', '.join(OPERATIONS)}")
    sizes: str = option("4KiB,64KiB,1MiB,16MiB,64MiB", "S: a list, or 1KiB..64MiB, which doubles")
    dtype: str = option(
        "float32",
        "of the elements",
        among=("float64", "float32", "bfloat16", "float16", "int64", "int32", "int8", "uint8"),
    )
    iterations: int = option(10, "calls in a row, whose mean is one measurement", 1)
    rounds: int = option(3, "measurements, of which the median is told", 1)
    warmup: int = option(2, "calls before that", 0)


@dataclass(frozen=True)
class Link:
    gb_per_s: float = option(
        0.0,
        "of GPUs: 10^9 bytes per second in one direction; of a hardware profile half of "
        "accelerators.link.bandwidth_gb_per_s inside a machine, an eighth of network's bandwidth_gbps between machines",
        0,
    )


@dataclass(frozen=True)
class Run:
    folder: str = option("", "run folder. Default: runs/<job id or time>")
    peer_timeout_s: int = option(60, "seconds until a silent peer counts as dead", 1)


@dataclass(frozen=True)
class Config:
    sweep: Sweep = field(default_factory=Sweep)
    link: Link = field(default_factory=Link)
    run: Run = field(default_factory=Run)


def load(arguments: Sequence[str]) -> Config:
    """The configuration of a command line. Raises Mistake."""
    return options.read(Config, arguments, _rules)


def _rules(config: Config) -> Iterator[str]:
    for check in (operations, sizes):
        try:
            check(config.sweep)
        except Mistake as mistake:
            yield str(mistake)


def operations(sweep: Sweep) -> list[str]:
    """Names of the operations to run. Raises Mistake."""
    names = list(OPERATIONS) if sweep.operations == "all" else sweep.operations.split(",")
    for name in names:
        if name not in OPERATIONS:
            raise Mistake(f"sweep.operations: {name!r} is none of {', '.join(OPERATIONS)}")
    return names


def sizes(sweep: Sweep) -> list[int]:
    """The sizes in bytes. Raises Mistake."""
    first, dots, last = sweep.sizes.partition("..")
    if not dots:
        return [_size(text) for text in sweep.sizes.split(",")]
    size, end = _size(first), _size(last)
    if size > end:
        raise Mistake(f"sweep.sizes: {first} is more than {last}")
    found = [size]
    while found[-1] * 2 <= end:
        found.append(found[-1] * 2)
    return found


def _size(text: str) -> int:
    unit = next((unit for unit in ("KiB", "MiB", "GiB", "B") if text.endswith(unit)), "")
    number = text.removesuffix(unit).strip() if unit else ""
    if not number.isdecimal() or int(number) == 0:
        raise Mistake(f"sweep.sizes: {text!r} is no size, such as 512B, 64KiB or 1GiB")
    return int(number) * UNITS[unit]


def size_text(size: int) -> str:
    """A size as `sweep.sizes` takes it; one that is no whole number of a unit in bytes."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % UNITS[unit] == 0)
    return f"{size // UNITS[unit]} {unit}"


if __name__ == "__main__":
    sys.exit(options.check(Config, load, sys.argv[1:]))
