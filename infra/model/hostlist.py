"""Ranges of host names as Slurm writes them: `gpu-[1-3,7]` is gpu-1 gpu-2 gpu-3 gpu-7."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

MAXIMUM = 100_000  # hosts in one expression: a typo such as [1-1000000000] must not fill the memory
_RANGES = re.compile(r"([^\[\]]*)\[([^\[\]]+)\]([^\[\]]*)")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def expand(text: str) -> list[str]:
    """The names that `text` stands for, in its order. Raises ValueError saying what is wrong with it."""
    names: list[str] = []
    for part in re.split(r",(?![^\[]*\])", text):
        found = _RANGES.fullmatch(part.strip())
        names += _expand(*found.groups()) if found else [part.strip()]
    for name in names:
        if len(name) > 63 or not _HOST.fullmatch(name):
            raise ValueError(f"'{name}' is no host name: lower-case letters, digits and '-', at most 63")
        if not re.search(r"[a-z]", name) or re.fullmatch(r"0[xob][0-9a-f]+", name):
            raise ValueError(f"'{name}' is read as a number, and not as a host name; begin it with a letter")
    return names


def _expand(before: str, ranges: str, after: str) -> list[str]:
    names: list[str] = []
    for part in ranges.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not found:
            raise ValueError(f"'{part.strip()}' is no range: write [1-4] or [1-4,7]")
        first, last = found[1], found[2] or found[1]
        if not 0 <= int(last) - int(first) < MAXIMUM:
            raise ValueError(f"'{part.strip()}' is no range of 1 to {MAXIMUM} hosts, lower number first")
        width = len(first) if first.startswith("0") else 0
        names += [f"{before}{n:0{width}d}{after}" for n in range(int(first), int(last) + 1)]
    return names


def compress(names: Iterable[str]) -> str:
    """The shortest expression for `names` in their order: c1 c2 c3 becomes c[1-3]."""
    runs: list[tuple[str, str, str]] = []  # prefix, first number, last number
    for name in names:
        prefix = name.rstrip("0123456789")
        number = name[len(prefix) :]
        if runs and runs[-1][0] == prefix and number and number == _next(runs[-1][2]):
            runs[-1] = (prefix, runs[-1][1], number)
        else:
            runs.append((prefix, number, number))
    parts = []
    for (prefix, numbered), group in groupby(runs, key=lambda run: (run[0], bool(run[1]))):
        ranges = [first if first == last else f"{first}-{last}" for _, first, last in group]
        if numbered and (len(ranges) > 1 or "-" in ranges[0]):
            parts.append(f"{prefix}[{','.join(ranges)}]")
        else:
            parts += [prefix + number for number in ranges]
    return ",".join(parts)


def even(first: str, last: str) -> Iterator[tuple[str, str]]:
    """A range with leading zeros as ranges whose ends are as long: 08 to 100 is 08 to 99, and 100 to 100."""
    while first.startswith("0") and 1 < len(first) < len(last):
        yield first, "9" * len(first)
        first = "1" + "0" * len(first)
    yield first, last


def _next(number: str) -> str:
    """The number after `number`, with as many leading zeros: 08, 09, 10."""
    return str(int(number) + 1).zfill(len(number)) if number else ""
