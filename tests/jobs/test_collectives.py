"""Collectives: each operation is right in each type, its bandwidths are nccl-tests', and a wrong result is told."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.cli.errors import Failure, Mistake
from jobs.collectives import __main__ as collectives
from jobs.collectives import link, sweep
from jobs.collectives.__main__ import Case
from jobs.collectives.sweep import OPERATIONS, Sweep
from jobs.parallel.ranks import Ranks
from tests.jobs.conftest import CHECKOUT
from tests.jobs.world import World, forked

TESTED = {"real": ["training on one node"]}
TYPES = ("float64", "float32", "bfloat16", "float16", "int64", "int32", "int8", "uint8")
# doc/PERFORMANCE.md of nccl-tests, "Summary", for 2, 3 and 8 ranks; point to point: src/sendrecv.cu.
FACTORS = {
    "all-reduce": (Fraction(1), Fraction(4, 3), Fraction(7, 4)),
    "all-gather": (Fraction(1, 2), Fraction(2, 3), Fraction(7, 8)),
    "reduce-scatter": (Fraction(1, 2), Fraction(2, 3), Fraction(7, 8)),
    "all-to-all": (Fraction(1, 2), Fraction(2, 3), Fraction(7, 8)),
    "broadcast": (Fraction(1),) * 3,
    "point-to-point": (Fraction(1),) * 3,
}


@dataclass(frozen=True)
class Somebody:
    """A rank of a world that is not there, for what needs no talk."""

    rank: int
    size: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0


def measured(ranks: int, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return forked(
        [
            *(sys.executable, "-u", "-m", "jobs.torchrun", "--standalone", f"--nproc-per-node={ranks}"),
            *("-m", "jobs.collectives", f"--run.folder={folder}", "--sweep.iterations=1"),
            *("--sweep.rounds=1", "--sweep.warmup=0", *words),
        ],
        cwd=CHECKOUT,
        timeout=120,
    )


def test_factors_are_those_of_nccl_tests() -> None:
    assert set(FACTORS) == set(OPERATIONS)
    for name, factors in FACTORS.items():
        assert [OPERATIONS[name].factor(n) for n in (2, 3, 8)] == pytest.approx([float(f) for f in factors])


def test_three_ranks_measure_every_operation_beside_the_link(tmp_path: Path) -> None:
    """Three: no power of two, and the sizes do not split evenly. Every result was checked, or it would fail."""
    done = measured(3, tmp_path, "--sweep.sizes=1000B,64KiB", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts == json.loads((tmp_path / "collectives.json").read_text())
    assert (tmp_path / "config.yaml").exists()
    assert (facts["ranks"], facts["backend"]) == (3, "gloo on CPU")
    assert {each["operation"] for each in facts["results"]} == set(OPERATIONS)
    links = facts["links_gb_per_s"]
    for each in facts["results"]:
        rate = each["bytes"] / each["seconds"] / 1e9
        assert each["algorithm_gb_per_s"] == pytest.approx(rate)
        assert each["bus_gb_per_s"] == pytest.approx(rate * float(FACTORS[each["operation"]][1]))
        way = "one way" if each["operation"] == "broadcast" else "all at once"
        assert each["link_gb_per_s"] == links[way]
        assert each["memcpy_gb_per_s"] == links["memcpy"]
    divided = {each["bytes"] for each in facts["results"] if OPERATIONS[each["operation"]].divided}
    assert divided == {996, 65532}  # whole elements for each of three ranks


def wrong(ranks: Ranks) -> list[str]:
    """What each operation gets wrong in each type, at a size that leaves a rest."""
    found = {
        (name, kind): collectives.make(name, 1000, kind, ranks).check()
        for name in OPERATIONS
        for kind in TYPES
    }
    return [f"{name} of {kind}: {what}" for (name, kind), what in found.items() if what]


@pytest.mark.parametrize("size", [2, 4])
def test_every_operation_is_right_in_every_type(world: Callable[[int], World], size: int) -> None:
    assert world(size).run(wrong) == [[]] * size


def rates(ranks: Ranks) -> tuple[float, float, float]:
    ring = link.Ring(ranks)
    found = ring.all_at_once(4 << 20), ring.one_way(4 << 20), link.memcpy(ranks, 4 << 20)
    ring.close()
    return found


def test_all_ranks_are_told_the_same_link(world: Callable[[int], World]) -> None:
    found = world(2).run(rates)
    assert found[0] == found[1]
    assert all(1e6 < rate < 1e12 for rate in found[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_of_42_ranks_are_whole_numbers_that_every_type_holds(dtype: str) -> None:
    case = collectives.make("all-reduce", 64, dtype, Somebody(1, 42))
    assert case.expected.double().tolist() == [
        sum((place * 31 + of * 17) % 4 for of in range(42)) for place in range(len(case.expected))
    ]


def test_what_each_rank_must_get_follows_from_what_all_put_in() -> None:
    """The expected results against each other: a reduce-scatter is a part of an all-reduce, and so on."""
    worlds = {
        name: [collectives.make(name, 96, "int32", Somebody(r, 3)) for r in range(3)] for name in OPERATIONS
    }
    summed = worlds["all-reduce"][0].expected
    assert torch.equal(summed, sum(case.content for case in worlds["all-reduce"]))
    assert torch.equal(torch.cat([case.expected for case in worlds["reduce-scatter"]]), summed)
    gathered = torch.cat([case.content for case in worlds["all-gather"]])
    assert all(torch.equal(case.expected, gathered) for case in worlds["all-gather"])
    for rank, case in enumerate(worlds["all-to-all"]):
        theirs = [other.content.chunk(3)[rank] for other in worlds["all-to-all"]]
        assert torch.equal(case.expected, torch.cat(theirs))
    assert all(torch.equal(case.expected, worlds["broadcast"][0].content) for case in worlds["broadcast"])
    ring = worlds["point-to-point"]
    assert all(torch.equal(ring[rank].expected, ring[rank - 1].content) for rank in range(3))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_does_nothing_or_half_is_found(name: str) -> None:
    case = collectives.make(name, 96, "float32", Somebody(1, 3))
    case.run = lambda: None
    assert "elements are wrong" in str(case.check())

    def half() -> None:
        case.result[:-1] = case.expected[:-1]

    case.run = half
    assert str(case.check()).startswith(
        f"1 of {len(case.result)} elements are wrong; element {len(case.result) - 1}"
    )


def test_a_wrong_result_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone(Somebody):
        def gathered(self, value: Any) -> list[Any]:
            return [value]

    real = collectives.make

    def broken(*arguments: Any) -> Case:
        case = real(*arguments)
        case.run = lambda: None
        return case

    class NoRing:
        def __init__(self, ranks: Any) -> None:
            pass

        def all_at_once(self, size: int) -> float:
            return 1.0

        one_way = all_at_once

    monkeypatch.setattr(collectives, "make", broken)
    monkeypatch.setattr(link, "Ring", NoRing)
    with pytest.raises(
        Failure, match=r"^all-reduce of 4 KiB float32 on rank 0: \d+ of 1024 elements are wrong"
    ):
        collectives.measure(Sweep(sizes="4KiB"), Alone(0, 2))


def test_sizes_are_lists_or_doubling_ranges() -> None:
    assert sweep.sizes(Sweep(sizes="512B,2KiB")) == [512, 2048]
    assert sweep.sizes(Sweep(sizes="1KiB..5KiB")) == [1024, 2048, 4096]
    assert [sweep.size_text(size) for size in (1, 2**10, 3 * 2**20, 1000)] == [
        "1 B",
        "1 KiB",
        "3 MiB",
        "1000 B",
    ]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--sweep.sizes=4kb", "sweep.sizes: '4kb' is no size, such as 512B, 64KiB or 1GiB"),
        ("--sweep.sizes=0KiB", "'0KiB' is no size"),
        ("--sweep.sizes=2KiB..1KiB", "sweep.sizes: 2KiB is more than 1KiB"),
        (
            "--sweep.operations=all-reduce,gather",
            "sweep.operations: 'gather' is none of all-reduce, all-gather",
        ),
        ("--sweep.dtype=float31", "'float31' is none of float64, float32"),
        ("--sizes=1KiB", "Did you mean 'sweep.sizes'?"),
    ],
)
def test_a_mistake_is_one_line(argument: str, said: str) -> None:
    with pytest.raises(Mistake) as caught:
        sweep.load([argument])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_size_must_have_an_element_for_each_rank() -> None:
    with pytest.raises(Mistake) as caught:
        collectives.make("all-gather", 4, "float32", Somebody(0, 2))
    assert str(caught.value) == "sweep.sizes: 4 B is less than one float32 for each of 2 ranks"


def test_the_shipped_configuration_is_valid_and_checked_without_torch() -> None:
    program = "import sys; from jobs.cli import options; from jobs.collectives import sweep; "
    program += "sys.exit(options.check(sweep.Config, sweep.load, sys.argv[1:]))"
    words = (sys.executable, "-c", program.replace("sys.exit", "assert 'torch' not in sys.modules; sys.exit"))
    good = subprocess.run(
        [*words, "--config=jobs/collectives.yaml"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (good.returncode, good.stderr) == (0, "")
    bad = subprocess.run([*words, "--sweep.rounds=0"], cwd=CHECKOUT, capture_output=True, text=True)
    assert (bad.returncode, bad.stderr) == (2, "--sweep.rounds: 0 is too small; the least is 1\n")
