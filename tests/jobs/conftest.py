"""How the tests run the training program: in this process on one rank, or by torchrun on several.

These tests need torch and run on the stack: `/opt/stack/current/bin/python -m pytest tests/jobs`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jobs import config, train
from jobs.data import shards as data
from jobs.resilience import signals
from jobs.telemetry import metrics
from jobs.telemetry.phases import Phases
from jobs.torchrun import children, workers
from tests.jobs.world import Worlds, forks, helpers

CHECKOUT = Path(__file__).resolve().parents[2]
# Small enough that a step takes milliseconds, long enough that a signal finds it under way.
TINY = {
    "model.layers": 1,
    "model.heads": 2,
    "model.width": 32,
    "model.context": 32,
    "train.batch": 8,
    "train.steps": 400,
    "train.warmup": 5,
    "checkpoint.every": 50,
    "run.log_every": 50,
    "run.validate": 64,
    "run.peer_timeout_s": 30,
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prepared data, for all tests."""
    folder = tmp_path_factory.mktemp("data")
    defaults = config.Data()
    data.prepare(folder, shard_bytes=defaults.shard_bytes, validation=defaults.validation)
    return folder


@pytest.fixture(scope="module")
def world() -> Iterator[Worlds]:
    """Ranks that stay for the tests of a module: `world(4).run(case)` is what each of four returns."""
    worlds = Worlds()
    yield worlds
    worlds.close()


@dataclass
class Trainer:
    """Runs in `folder`, with TINY's options unless told otherwise (`train__steps=3`; None leaves one out)."""

    folder: Path
    data: Path

    def options(self, **changes: Any) -> list[str]:
        named = {"run.folder": self.folder, "data.folder": self.data, **TINY}
        named |= {name.replace("__", "."): value for name, value in changes.items()}
        return [f"--{name}={value}" for name, value in named.items() if value is not None]

    def here(self, **changes: Any) -> None:
        """One rank, in this process."""
        import torch.distributed as dist

        with patch.dict(os.environ):  # what a rank alone sets is not for the next test
            try:
                train.train(config.load(self.options(**changes)), signals.Warnings(), Phases(time.time()))
            finally:
                if dist.is_initialized():  # it failed, as a test wanted it to
                    dist.destroy_process_group()

    def start(
        self, ranks: int, *launcher: str, module: str = "jobs.train", fresh: bool = False, **changes: Any
    ) -> "subprocess.Popen[str]":
        """Ranks under torchrun, with more of its options (default: --standalone).

        torchrun is forked from what has imported torch, or started afresh, as from a person's shell.
        """
        return (subprocess.Popen if fresh else forks().popen)(
            [
                *(sys.executable, "-u", "-m", "jobs.torchrun", *(launcher or ("--standalone",))),
                *(f"--nproc-per-node={ranks}", "-m", module, *self.options(**changes)),
            ],
            cwd=CHECKOUT,
            env=clean(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def spread(self, ranks: int, **changes: Any) -> str:
        """Ranks under torchrun, to the end. Returns what they printed."""
        done = self.start(ranks, **changes)
        output, _ = done.communicate(timeout=180)
        assert done.returncode == 0, output
        return output

    def losses(self) -> list[float]:
        lines = metrics.read(self.folder / "metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        return [line["loss"] for line in lines]

    def reaches(self, step: int, process: "subprocess.Popen[str]") -> None:
        """Wait until `step` is in the record."""
        path = self.folder / "metrics.jsonl"
        while not (path.exists() and path.read_text().count("\n") >= step):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)

    def worker(self, process: "subprocess.Popen[str]", rank: int) -> int:
        """Process number of a rank, of a torchrun that has all of them."""
        return self.workers(process)[rank]

    def workers(self, process: "subprocess.Popen[str]") -> list[int]:
        return workers(process.pid)


# What a run in this process sets for itself, and a torchrun started later must not see.
LEFT_OVER = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def clean() -> dict[str, str]:
    """The environment of a person's shell."""
    return {name: value for name, value in os.environ.items() if name not in LEFT_OVER}


@pytest.fixture
def trainer(tmp_path: Path, corpus: Path) -> Trainer:
    return Trainer(tmp_path / "run", corpus)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Trainer:
    """A run on two ranks that nothing interrupts, which others are compared with."""
    trainer = Trainer(tmp_path_factory.mktemp("undisturbed") / "run", corpus)
    trainer.spread(2)
    return trainer


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """A test that leaves a process behind fails, and the process is ended."""
    yield
    left = {pid: said(pid) for pid in set(children(os.getpid())) - helpers()}
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert not left


def said(pid: int) -> str:
    """What a process is, and whether it still lives."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return f"{state} {Path(f'/proc/{pid}/cmdline').read_text()}"
