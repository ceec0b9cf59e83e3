"""The preemption contract on two ranks: whoever gets the signal, and whenever, all save the same step and go on.

One run is disturbed in every way, one after the other; each case goes on where the one before left it, and after
each its losses are, to the last bit, those of a run that nothing disturbed. Gradients are accumulated over two parts
of a batch, so that most signals come in the middle of that; a save runs behind the training every tenth step.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.telemetry import metrics
from jobs.tools import samples
from tests.jobs.conftest import CHECKOUT, Trainer, clean
from tests.jobs.world import forks

TESTED = {"real": ["training on one node"]}

EVERY = 10
HOW: dict[str, Any] = {
    "compute__accumulate": 2,
    "train__batch": 8,
    "checkpoint__every": EVERY,
    "run__log_every": 100,
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> list[float]:
    """The losses of a run that nothing disturbs."""
    trainer = Trainer(tmp_path_factory.mktemp("reference") / "run", corpus)
    trainer.spread(2, **HOW)
    return trainer.losses()


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("disturbed") / "run", corpus)


def steps(trainer: Trainer) -> int:
    return len(metrics.read(trainer.folder / "metrics.jsonl"))


def half_saved(trainer: Trainer, process: Any) -> int:
    """The step of a save that is being written now."""
    while True:
        for folder in (trainer.folder / "checkpoints").glob(".step-*"):
            if any(folder.iterdir()):
                return int(folder.name.removeprefix(".step-"))
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0005)


def one_rank(trainer: Trainer, process: Any) -> None:
    os.kill(trainer.worker(process, 1), signal.SIGUSR2)


def all_ranks(trainer: Trainer, process: Any) -> None:
    for worker in trainer.workers(process):
        os.kill(worker, signal.SIGUSR2)


def the_agent(trainer: Trainer, process: Any) -> None:
    os.kill(process.pid, signal.SIGUSR2)


def twice(trainer: Trainer, process: Any) -> None:
    worker = trainer.worker(process, 0)
    os.kill(worker, signal.SIGUSR2)
    time.sleep(0.01)  # the first is noted, and maybe acted upon
    os.kill(worker, signal.SIGUSR2)


def during_a_save(trainer: Trainer, process: Any) -> None:
    half_saved(trainer, process)
    os.kill(process.pid, signal.SIGUSR2)


@pytest.mark.parametrize(
    "warn", [one_rank, all_ranks, the_agent, pytest.param(twice, marks=pytest.mark.more), during_a_save]
)
def test_with_a_warning_no_step_is_lost(
    disturbed: Trainer, reference: list[float], warn: Callable[[Trainer, Any], None]
) -> None:
    begin = steps(disturbed)
    process = disturbed.start(2, **HOW)
    disturbed.reaches(begin + 15, process)
    warn(disturbed, process)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output

    told = re.findall(r"SIGUSR2: all 2 ranks agreed to stop after step (\d+); saved in", output)
    assert told == [str(steps(disturbed))], output  # once, and the step that is the last in the record
    stopped = int(told[0])
    assert f"to go on: start the same command with --run.folder={disturbed.folder}" in output
    assert json.loads((disturbed.folder / "summary.json").read_text())["state"] == "interrupted"
    assert (disturbed.folder / "checkpoints" / f"step-{stopped:06d}" / "manifest.json").exists()
    assert disturbed.losses() == reference[:stopped]
    assert len(reference) > stopped  # or there was nothing to interrupt
    if begin:
        assert f"resumed from {disturbed.folder}/checkpoints/step-{begin:06d}" in output
        assert last_attempt(disturbed)["waterfall"]["again"] == 0
    assert "none lost, none repeated" in samples.prove(disturbed.folder)


def last_attempt(trainer: Trainer) -> dict[str, Any]:
    found: dict[str, Any] = metrics.read(trainer.folder / "attempts.jsonl")[-1]
    return found


def test_with_too_little_warning_the_last_whole_save_counts(
    disturbed: Trainer, reference: list[float]
) -> None:
    """Killed in the middle of a save, right after the warning: the save before is used, and the half one is not."""
    begin = steps(disturbed)
    process = disturbed.start(2, **HOW)
    disturbed.reaches(begin + 15, process)
    victims = (*disturbed.workers(process), process.pid)
    writing = half_saved(disturbed, process)
    os.kill(process.pid, signal.SIGUSR2)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    process.communicate(timeout=60)
    reached = steps(disturbed)
    whole = max(int(path.name[5:]) for path in (disturbed.folder / "checkpoints").glob("step-*"))
    assert whole >= writing - EVERY  # more, when it was whole before the signal came

    output = disturbed.spread(2, **HOW)
    assert f"resumed from {disturbed.folder}/checkpoints/step-{whole:06d}" in output
    attempt = last_attempt(disturbed)
    assert attempt["resumed_from"] == whole
    assert attempt["waterfall"]["again"] == reached - whole
    # An interval, and the steps that were done while the save was written.
    assert reached - whole <= 2 * EVERY
    assert disturbed.losses() == reference
    assert "none lost, none repeated" in samples.prove(disturbed.folder)
    assert json.loads((disturbed.folder / "summary.json").read_text())["state"] == "completed"


# Torch's own patience is 30 s. `ddp.sbatch` and the other launchers' files say 60, as they promise.
@pytest.mark.parametrize(
    ("promised", "save_s", "saved"), [("3", 20, False), pytest.param("", 33, True, marks=pytest.mark.more)]
)
def test_a_slow_save_after_sigterm_has_the_time_that_was_promised(
    tmp_path: Path, promised: str, save_s: float, saved: bool
) -> None:
    done = tmp_path / "saved"
    process = forks().popen(
        [
            *(sys.executable, "-u", "-m", "jobs.torchrun", "--standalone", "--nproc-per-node=1"),
            *("-m", "tests.jobs.probe", "save", str(save_s), str(done)),
        ],
        cwd=CHECKOUT,
        env={**clean(), **({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": promised} if promised else {})},
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdout.readline() == b"waits\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert done.exists() == saved
    assert saved or 3 <= time.monotonic() - begin < 20
