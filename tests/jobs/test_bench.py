"""The benchmarks run and hold each figure against a limit of the same run; what needs a GPU says so."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import CHECKOUT, clean

TESTED = {"real": ["training on one node"]}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One that can be written to, for its runs/."""
    (tmp_path / "jobs").symlink_to(CHECKOUT / "jobs")
    return tmp_path


def bench(checkout: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "jobs.bench", *words],
        cwd=checkout,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def figures(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["name"]: each for each in found}


def test_what_is_measured_on_a_gpu_runs_at_tiny_sizes_on_cpu(checkout: Path) -> None:
    found = figures(bench(checkout, "gpu", "--device=cpu", "--json"))
    names = ["product of 128 x 128, fp32", "memory, read and written", "training, ", "checkpoint of "]
    assert [name.startswith(start) for name, start in zip(found, names, strict=True)] == [True] * 4
    assert all(each["value"] > 0 for each in found.values())
    trained = next(each for name, each in found.items() if name.startswith("training, "))
    assert trained["limit_name"] == "a plain PyTorch loop"
    assert trained["reached"] == pytest.approx(trained["value"] / trained["limit"])


def test_without_a_gpu_it_is_refused_in_one_line(checkout: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = bench(checkout, "gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu: torch finds no GPU here; ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.more
def test_ranks_are_measured_beside_their_bounds(checkout: Path) -> None:
    found = figures(bench(checkout, "scaling", "--ranks=2", "--json"))
    assert list(found) == [f"{what} on {n} ranks" for n in (1, 2) for what in ("step", "training")]
    assert all(each["limit"] > 0 and each["limit_name"] for each in found.values())
