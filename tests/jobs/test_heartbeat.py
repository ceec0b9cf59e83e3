"""A rank that hangs, is stopped or dies is named within 5 s, and the job starts again by itself."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.telemetry import metrics
from jobs.tools import samples
from tests.jobs.conftest import Trainer
from tests.jobs.hanging import HANGS_AT

TESTED = {"real": ["training on one node"]}


@dataclass
class Survived:
    """A run that was hit three times, and how it went."""

    trainer: Trainer
    output: str
    code: int
    attempts: list[dict[str, Any]]


def wait_for(folder: Path, attempts: int, step: int, process: "subprocess.Popen[str]") -> None:
    """Until the run came to `step` in its start number `attempts`."""
    while True:
        lines = metrics.read(folder / "attempts.jsonl")
        steps = metrics.read(folder / "metrics.jsonl")
        if len(lines) >= attempts and steps and steps[-1]["step"] >= step:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Survived]:
    """Rank 1 hangs at step 130; after that rank 0 is stopped; after that rank 1 is killed; then it may finish."""
    trainer = Trainer(tmp_path_factory.mktemp("survived") / "run", corpus)
    process = trainer.start(2, "--standalone", "--max-restarts=3", module="tests.jobs.hanging")
    try:
        wait_for(trainer.folder, 2, 220, process)
        os.kill(trainer.worker(process, 0), signal.SIGSTOP)
        wait_for(trainer.folder, 3, 310, process)
        os.kill(trainer.worker(process, 1), signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    yield Survived(trainer, output, process.returncode, metrics.read(trainer.folder / "attempts.jsonl"))


def test_the_run_ends_well_and_as_if_nothing_had_happened(survived: Survived, undisturbed: Trainer) -> None:
    assert survived.code == 0, survived.output
    assert survived.trainer.losses() == undisturbed.losses()
    assert "none lost, none repeated" in samples.prove(survived.trainer.folder)
    assert len(survived.attempts) == 4


def test_slow_for_a_good_reason_is_not_dead(survived: Survived) -> None:
    """Its first step and its first save took 6 s on rank 1, and it came further than that."""
    first = survived.attempts[0]
    assert first["phases"]["first_step"] > 6
    assert survived.attempts[1]["resumed_from"] == 100


def test_the_rank_that_hangs_is_named_with_its_place(survived: Survived) -> None:
    told = re.search(
        r"rank 1 on (\S+): stuck for (\S+) s in a step at (.*); its last step was (\d+)", survived.output
    )
    assert told, survived.output
    assert told[1] == os.uname().nodename
    assert "slow_windows" in told[3] or "loader.py" in told[3] or "train.py" in told[3]
    assert int(told[4]) == HANGS_AT - 1


def test_the_rank_that_was_stopped_is_named(survived: Survived) -> None:
    told = re.search(r"rank 0 on (\S+): silent for (\S+) s .*; its last step was (\d+)", survived.output)
    assert told, survived.output
    assert float(told[2]) < 5
    assert int(told[3]) >= 220


def test_each_is_seen_within_5_s(survived: Survived) -> None:
    """From the end of the last step, so a step longer than from the moment itself."""
    for attempt in survived.attempts[1:]:
        assert attempt["waterfall"]["detect"] < 5.5, attempt


def test_each_restart_tells_what_it_cost(survived: Survived) -> None:
    for attempt in survived.attempts[1:]:
        found = attempt["waterfall"]
        assert found["again"] > 0
        assert all(found[name] is not None for name in ("detect", "start", "import", "load", "catch_up"))
        assert found["import"] > 0
    assert "restart 1: detect" in survived.output
    assert survived.output.count("caught up: ") == 3


def test_a_mistake_is_not_started_again(trainer: Trainer) -> None:
    process = trainer.start(1, "--standalone", "--max-restarts=3", model__heads=5)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert output.count("model.heads: 5 heads do not split") == 1


def test_what_ended_a_start_lies_in_the_folder(survived: Survived) -> None:
    ended = json.loads((survived.trainer.folder / "ended.json").read_text())
    assert set(ended) == {"unix", "why", "rank", "host", "step", "silent_s"}
