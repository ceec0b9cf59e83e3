"""Ranges of host names as Slurm writes them: `gpu-[1-3,7]` is gpu-1 gpu-2 gpu-3 gpu-7."""

import re
from collections.abc import Iterable
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
    parts = [re.fullmatch(r"(.*?)(\d*)", name) for name in names]
    split = [(part[1], part[2]) for part in parts if part]
    done = []
    # Numbers with leading zeros only join numbers of the same width: n01 and n1 are two hosts.
    for (prefix, _), group in groupby(split, key=lambda part: (part[0], _width(part[1]))):
        numbers = [number for _, number in group]
        if numbers == [""] * len(numbers):
            done += [prefix] * len(numbers)
            continue
        ranges = _ranges(numbers)
        single = len(numbers) == 1
        done.append(prefix + (numbers[0] if single else f"[{','.join(ranges)}]"))
    return ",".join(done)


def _width(number: str) -> int:
    """What numbers must share to stand in one range: 0 for plain ones, their length with leading zeros."""
    return -1 if not number else len(number) if number.startswith("0") else 0


def _ranges(numbers: list[str]) -> list[str]:
    ranges: list[list[str]] = []
    for number in numbers:
        if ranges and int(ranges[-1][-1]) + 1 == int(number):
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ["-".join(ends) for ends in ranges]
