"""A parameter server: with no staleness it is DDP to the last bit; workers may die, come, and be fewer next time."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.paramserver import wire
from jobs.paramserver.tickets import Ticket
from jobs.torchrun import children
from tests.jobs.conftest import CHECKOUT, Trainer, clean
from tests.jobs.world import forked, forks

TESTED = {"real": ["training on one node"]}


@contextmanager
def serving(trainer: Trainer, **changes: Any) -> "Iterator[subprocess.Popen[str]]":
    """A server with its workers on this machine; killed at the end if it still runs."""
    process = forks().popen(
        [sys.executable, "-u", "-m", "jobs.paramserver", *trainer.options(**changes)],
        cwd=CHECKOUT,
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        process.kill()
        process.wait()


def ended(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


def summary(trainer: Trainer) -> Any:
    return json.loads((trainer.folder / "summary.json").read_text())


def test_synchronous_it_has_the_losses_of_ddp_to_the_last_bit_across_a_stop_and_with_fewer_workers(
    trainer: Trainer, undisturbed: Trainer
) -> None:
    """DDP's are those of one process up to rounding: tests/jobs/test_training.py."""
    with serving(trainer) as process:
        trainer.reaches(20, process)
        process.send_signal(signal.SIGTERM)
        output = ended(process)
    stopped = len(trainer.losses())
    assert 20 <= stopped < 400
    assert f"saved at step {stopped}" in output
    assert trainer.losses() == undisturbed.losses()[:stopped]
    assert summary(trainer)["server"]["staleness_max"] == 0

    with serving(trainer, server__workers=1, server__parts=2) as process:
        trainer.reaches(stopped + 20, process)
        process.send_signal(signal.SIGTERM)
        assert f"step-{stopped:06d}" in ended(process)
    losses = trainer.losses()
    assert len(losses) >= stopped + 20
    assert losses == undisturbed.losses()[: len(losses)]


QUIET: Any = {"cwd": CHECKOUT, "capture_output": True, "text": True, "timeout": 300}


def test_a_worker_that_is_killed_stops_nobody_and_another_may_come(trainer: Trainer) -> None:
    """Asynchronous. Every part of every step counts once, whoever computed it.

    The worker that is left is held meanwhile, so that the run does not end before the other has come.
    """
    changes = {"train__steps": 60, "server__staleness": -1, "run__peer_timeout_s": 300}
    with serving(trainer, **changes) as process:
        assert process.stdout
        said = iter(process.stdout.readline, "")
        address = next(found[1] for line in said if (found := re.search(r"--server.address=(\S+)", line)))
        assert any("; 2 at work" in line for line in said)
        trainer.reaches(5, process)
        victim, left = children(process.pid)
        os.kill(left, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        assert any(f"/{victim} is lost" in line and "1 left" in line for line in said)
        command = [sys.executable, "-u", "-m", "jobs.paramserver"]
        foreign = trainer.options(**changes, model__layers=2, server__address=address)
        other = forked([*command, *foreign], env=clean(), cwd=CHECKOUT)
        assert other.returncode == 1
        assert "refuses this worker: it has another model" in other.stderr
        more = forks().popen(
            [*command, *trainer.options(**changes, server__address=address)], cwd=CHECKOUT, env=clean()
        )
        assert any(f"/{more.pid} came; 2 at work" in line for line in said)
        os.kill(left, signal.SIGCONT)
        ended(process)
        assert more.wait(180) == 0
    told = summary(trainer)["server"]
    assert sum(told["tickets"].values()) == told["updates"] == 60 * 2
    assert [name.partition("/")[2] for name in told["workers_lost"]] == [str(victim)]
    # the one that was killed may not have brought a part yet
    assert {name.partition("/")[2] for name in told["tickets"]} | {str(victim)} == {
        *(str(victim), str(left), str(more.pid))
    }
    losses = trainer.losses()
    assert len(losses) == 60
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.more
def test_stale_synchronous_by_torchrun_stays_in_its_bounds_and_can_be_looked_at_again(
    trainer: Trainer,
) -> None:
    """Rank 0 serves, the others work; started again after its end it ends at once."""
    words = [
        *(sys.executable, "-u", "-m", "jobs.torchrun", "--standalone", "--nproc-per-node=3"),
        *("-m", "jobs.paramserver", *trainer.options(train__steps=30, server__staleness=1)),
    ]
    done = forked(words, env=clean(), cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    assert len(trainer.losses()) == 30
    told = summary(trainer)["server"]
    assert told["lead_max"] <= 1
    assert json.loads((trainer.folder / "environment.json").read_text())["seed"] == 1
    report = subprocess.run([sys.executable, "-m", "jobs", "report", str(trainer.folder)], **QUIET)
    assert report.returncode == 0, report.stderr
    assert told["staleness_max"] <= 3 * 2 - 1  # the other parts of the steps before, of it and after
    done = forked(words, env=clean(), cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    assert summary(trainer)["resumed_from"] == 30
    assert summary(trainer)["server"]["updates"] == 0
    assert len(trainer.losses()) == 30


def test_frames_arrive_as_they_were_sent_and_strangers_are_told_apart() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send_hello(ours, b"d" * 32, "gpu-1/7")
        assert wire.receive_hello(theirs) == (b"d" * 32, "gpu-1/7")
        sent = wire.Result(Ticket(3, 1), 7, 2.5, 0.25)
        wire.send_result(ours, sent, memoryview(b"12345678"))
        got = bytearray(8)
        assert wire.receive_result(theirs, memoryview(got)) == sent
        assert bytes(got) == b"12345678"
        big = bytes(range(256)) * 4096  # more than a socket's buffer
        sender = threading.Thread(target=wire.send_ticket, args=(ours, Ticket(1, 0), 2, 5, memoryview(big)))
        sender.start()
        into = bytearray(len(big))
        assert wire.receive_answer(theirs, memoryview(into)) == (Ticket(1, 0), 2, 5)
        sender.join()
        assert into == big
        wire.send_refusal(ours, "no")
        assert wire.receive_answer(theirs, memoryview(into)) == "no"
        wire.send_end(ours)
        assert wire.receive_answer(theirs, memoryview(into)) is None
        ours.sendall(b"GET / HTTP/1.1\r\nHost: somewhere\r\nAccept: everything\r\n\r\n")
        with pytest.raises(wire.Closed, match="not a worker"):
            wire.receive_hello(theirs)
        ours.close()
        with pytest.raises(wire.Closed):
            while True:
                wire.receive_answer(theirs, memoryview(into))


def test_ranks_that_do_not_split_the_batch_are_a_mistake(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    done = forked([sys.executable, "-u", "-m", "jobs.paramserver", *trainer.options()], cwd=CHECKOUT)
    assert done.returncode == 2
    said = "train.batch: 8 sequences do not split evenly over 3 workers; rank 0 is the server\n"
    assert done.stderr == said
