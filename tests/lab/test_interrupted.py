"""Whatever kills `make cluster-up`, and whenever: the next cluster-down and cluster-up leave a cluster that runs jobs.

Ten rounds, beside load on every core. Comes near the end: it takes the cluster down, with and without its data.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from infra.base.paths import CHECKOUT
from tests.lab.conftest import Lab

TESTED = {"real": ["place lab"]}

ROUNDS = 10
LONGEST_S = 25.0  # a kill comes before this: a cold start takes 15 s on an idle machine
SRUN_S = 10.0  # for a job of no work on two nodes, beside the load


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Something that computes on every core."""
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def kill(typed: subprocess.Popen[bytes], *, alone: bool) -> None:
    """SIGKILL to all of what was typed, as when a machine kills for memory, or to the tool alone."""
    if not alone:
        os.killpg(typed.pid, signal.SIGKILL)
        return
    found = subprocess.run(["pgrep", "-g", str(typed.pid), "-f", "infra up"], capture_output=True, text=True)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.more
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_start_that_was_killed_leaves_nothing_that_the_next_stumbles_over(lab: Lab, number: int) -> None:
    chance = random.Random(number)
    purge = ["PURGE=1"] if chance.random() < 0.5 else []
    with load():
        assert lab.make("cluster-down", *(["PURGE=1"] if chance.random() < 0.5 else [])).returncode == 0
        typed = subprocess.Popen(
            ["make", "cluster-up", "JOB="],
            cwd=CHECKOUT,
            env=lab.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.5, LONGEST_S))
        kill(typed, alone=chance.random() < 0.5)
        for words in (["cluster-down", *purge], ["cluster-up", "JOB="]):
            done = lab.make(*words)
            assert done.returncode == 0, f"make {' '.join(words)}: {done.stdout}{done.stderr}"
        typed.wait(timeout=60)
        begin = time.monotonic()
        assert sorted(lab.ok("srun --nodes=2 --time=1 hostname").split()) == ["c1", "c2"]
        assert time.monotonic() - begin < SRUN_S, "it waited for nodes that were said to be there"
        verified = lab.make("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
