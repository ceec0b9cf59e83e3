"""What interruptions cost: real runs of jobs/train.py on this machine, disturbed, and read from what they leave.

The model is that of jobs/ddp.yaml, on two ranks, with one exception: `resume` takes a batch that 1 to 4 ranks split.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jobs.bench.figure import Figure
from jobs.cli.errors import Failure
from jobs.telemetry import metrics
from jobs.torchrun import workers

PATIENCE_S = 300
HUNG_GOAL_S = 5.0  # until a rank that says nothing is known to be dead


@dataclass
class Job:
    """A run below `room`, started as often as it is asked for."""

    room: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.room / "run"

    @contextmanager
    def running(self, ranks: int, restarts: int = 0) -> "Iterator[subprocess.Popen[bytes]]":
        """The launcher of `ranks` ranks; whatever is left of it is killed at the end."""
        given = {"run.folder": self.folder, "data.folder": "runs/data", **self.options}
        words = [f"--{name}={value}" for name, value in given.items()]
        launch = [
            "-m",
            "jobs.torchrun",
            "--standalone",
            f"--nproc-per-node={ranks}",
            f"--max-restarts={restarts}",
        ]
        with (self.room / "output").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *launch, "-m", "jobs.train", *words], stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            for child in workers(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()

    def steps(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return metrics.read(path) if path.exists() else []

    def has(self, steps: int) -> bool:
        return len(self.steps()) >= steps

    def until(
        self, what: str, there: Callable[[], Any], process: "subprocess.Popen[bytes] | None" = None
    ) -> float:
        """The moment when `there` is so. Raises Failure when the job ends before, or never gets there."""
        deadline = time.monotonic() + PATIENCE_S
        while not there():
            if process and process.poll() is not None and not there():
                raise Failure(f"the job ended with {process.returncode} before {what}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"{what}: not after {PATIENCE_S} s:\n{self.tail()}")
            time.sleep(0.01)
        return time.monotonic()

    def tail(self) -> str:
        return "\n".join((self.room / "output").read_text(errors="replace").splitlines()[-8:])

    def saved(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*"))


@contextmanager
def _room() -> Iterator[Path]:
    room = Path(tempfile.mkdtemp(prefix="bench-", dir="runs"))
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def faults() -> list[Figure]:
    """Signal to saved; a killed rank to the next step; a hung rank to the end of its start."""
    with _room() as room:
        job = Job(room, {"train.steps": 100000, "checkpoint.every": 20})
        with job.running(2) as process:
            job.until("step 5", partial(job.has, 5), process)
            at = time.monotonic()
            process.send_signal(signal.SIGUSR2)
            signalled = job.until("a checkpoint", job.saved, process) - at
            process.wait(PATIENCE_S)
        step_s = statistics.median(line["step_s"] for line in job.steps()[1:])
        write_s = _plain_write(job.saved()[-1], room)
        figures = [
            Figure("signal to saved", signalled, "s", step_s + write_s, "a step + a plain write of it")
        ]

        before = len(job.steps())
        with job.running(2, restarts=1) as process:
            job.until("25 steps", partial(job.has, before + 25), process)
            started = _attempts(job)[-1]
            victim = workers(process.pid)[-1]
            at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            count = len(_attempts(job))
            killed = job.until("a step after the restart", lambda: len(_attempts(job)) > count, process) - at
            told = _attempts(job)[-1]
            figures.append(
                Figure(
                    "rank killed to the next step", killed, "s", sum(started["phases"].values()), "a start"
                )
            )
            figures += [
                Figure(f"  of it {name.replace('_', ' ')}", seconds, "s")
                for name, seconds in told.get("waterfall", {}).items()
                if isinstance(seconds, float)
            ]
            # Under way again: for 4 s after the first step, which may compile, nobody is judged.
            job.until("25 steps more", partial(job.has, len(job.steps()) + 25), process)
            hung = workers(process.pid)[-1]
            ended = job.folder / "ended.json"
            ended.unlink(missing_ok=True)
            at = time.monotonic()
            os.kill(hung, signal.SIGSTOP)
            seen = job.until("somebody sees the hung rank", ended.exists, process) - at
            figures.append(Figure("hung rank to its detection", seen, "s", HUNG_GOAL_S, "goal"))
    return figures


def resume() -> list[Figure]:
    """A checkpoint of n ranks read by m ranks, for each n and m from 1 to 4, beside a plain read of its bytes.

    What a small one takes is the start of torch's reader and a fraction of a millisecond a tensor; a large one of two
    ranks shows what a byte takes: it is hashed, and read.
    """
    large = {"model.layers": 8, "model.heads": 8, "model.width": 512, "model.context": 64}
    return [*_resumes((1, 2, 3, 4), (1, 2, 3, 4), {}), *_resumes((2,), (2,), large)]


def _resumes(writers: Sequence[int], readers: Sequence[int], model: dict[str, int]) -> list[Figure]:
    figures = []
    with _room() as room:
        for wrote in writers:
            job = Job(room, {"train.batch": 12, "train.steps": 100000, **model})
            with job.running(wrote) as process:
                job.until("2 steps", partial(job.has, 2), process)
                process.send_signal(signal.SIGUSR2)
                process.wait(PATIENCE_S)
            if not job.saved():
                raise Failure(f"{wrote} ranks saved nothing:\n{job.tail()}")
            shutil.copytree(job.folder, room / "kept")
            size, read_s = _plain_read(job.saved()[-1])
            for reads in readers:
                shutil.rmtree(job.folder)
                shutil.copytree(room / "kept", job.folder)
                facts = _resumed(job, reads)
                name = f"resume of {size / 1e6:.0f} MB, {wrote} -> {reads} ranks"
                figures.append(Figure(name, facts["phases"]["load"], "s", read_s, "a plain read of it"))
            shutil.rmtree(job.folder)
            shutil.rmtree(room / "kept")
    return figures


def _resumed(job: Job, ranks: int) -> Any:
    """The line of attempts.jsonl of a start that goes on from the checkpoint."""
    count, step = len(_attempts(job)), int(job.saved()[-1].name.removeprefix("step-"))
    with job.running(ranks) as process:
        job.until("a step", lambda: len(_attempts(job)) > count, process)
    facts = _attempts(job)[-1]
    if facts["resumed_from"] != step:
        raise Failure(f"{ranks} ranks began at step {facts['resumed_from']}, not {step}:\n{job.tail()}")
    return facts


def _attempts(job: Job) -> list[Any]:
    path = job.folder / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _plain_write(folder: Path, room: Path) -> float:
    """Seconds to write and sync as many bytes as `folder` has."""
    content = os.urandom(sum(path.stat().st_size for path in folder.iterdir()))
    start = time.perf_counter()
    with (room / "plain").open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - start


def _plain_read(folder: Path) -> tuple[int, float]:
    """Bytes of the files of `folder`, and the seconds to read them, which are in memory as after a save."""
    start = time.perf_counter()
    size = sum(len(path.read_bytes()) for path in folder.iterdir())
    return size, time.perf_counter() - start


MEASURES: dict[str, Callable[[], list[Figure]]] = {"faults": faults, "resume": resume}
