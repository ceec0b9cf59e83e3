"""A program that is forked cannot be told from one that is started afresh, and where that is not safe it is not."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import fork
from jobs.torchrun import workers
from tests.jobs.conftest import CHECKOUT, Trainer, clean
from tests.jobs.world import forks

TESTED = {"real": ["training on one node"]}

PROBE = [sys.executable, "-u", "-m", "tests.jobs.probe"]


@pytest.fixture(scope="module")
def server() -> Iterator[fork.ForkServer]:
    server = fork.ForkServer.fresh(("numpy",))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_children_left(server: fork.ForkServer) -> None:
    """Instead of the one of all tests, which knows nothing of this server."""


def both(server: fork.ForkServer, *words: str, **named: Any) -> tuple[Any, Any]:
    """A probe that was started afresh and one that was forked, to the end: exit code, output, errors."""
    named = {"cwd": CHECKOUT, "env": clean(), "text": True, **named}
    named |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    given = named.pop("given", None)
    found = []
    for start in (subprocess.Popen, server.popen):
        process = start([*PROBE, *words], stdin=subprocess.PIPE if given else None, **named)
        output, errors = process.communicate(given, timeout=60)
        found.append((process.returncode, output, errors))
    return found[0], found[1]


def test_it_finds_itself_as_if_it_had_been_started_afresh(server: fork.ForkServer) -> None:
    strange = {"WITH_BLANKS": " a b ", "UMLAUT": "\xfc", "NOT_UTF8": "\udcff", "EMPTY": ""}
    fresh, forked = both(server, "facts", "one two", "\xe4", env={**clean(), **strange})
    assert fresh[0] == forked[0] == 0, forked
    found, wanted = json.loads(forked[1]), json.loads(fresh[1])
    del found["command"], wanted["command"]  # for which this server has no room; the next test is about it
    assert found == wanted
    assert wanted["environment"].items() >= strange.items()


def test_ps_shows_a_rank_as_what_it_is() -> None:
    launcher = [sys.executable, "-m", "jobs.torchrun", "--standalone", "--nproc-per-node=1"]
    done = subprocess.run(
        [*launcher, *PROBE[2:], "facts"], cwd=CHECKOUT, env=clean(), capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert found["command"] == found["orig_argv"] == [*PROBE, "facts"]
    assert "torch" in found["modules"]  # so it was forked: the probe imports none


def test_a_signal_that_is_held_back_stays_so(server: fork.ForkServer) -> None:
    """As jobs/torchrun.py does with SIGUSR2, until a program is ready for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        fresh, forked = both(server, "facts")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    assert json.loads(forked[1])["signals"] == json.loads(fresh[1])["signals"]
    assert int(json.loads(fresh[1])["signals"][0], 16) & 1 << signal.SIGUSR2 - 1


@pytest.mark.parametrize("words", [("exit", "0"), ("exit", "3"), ("say", "why"), ("interrupt",)])
def test_it_ends_as_if_it_had_been_started_afresh(server: fork.ForkServer, words: tuple[str, ...]) -> None:
    fresh, forked = both(server, *words)
    assert forked[:2] == fresh[:2]
    assert forked[2].splitlines()[-1:] == fresh[2].splitlines()[-1:]


def test_a_traceback_shows_nothing_of_the_fork(server: fork.ForkServer) -> None:
    fresh, forked = both(server, "raise", "for a reason")
    assert "ValueError: for a reason" in fresh[2]
    assert forked == fresh


def test_it_ends_in_order(server: fork.ForkServer, tmp_path: Path) -> None:
    """Threads are waited for, and what is still in a buffer is written."""
    fresh, forked = both(server, "unfinished", str(tmp_path / "file"))
    assert forked == fresh == (0, "no line end, and a thread\n", "")
    assert (tmp_path / "file").read_text() == "never flushed, never closed"


def test_it_reads_what_it_is_given(server: fork.ForkServer) -> None:
    fresh, forked = both(server, "read", given="a\nb")
    assert forked == fresh == (0, "A\nB", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_ends_it(server: fork.ForkServer, number: int) -> None:
    process = server.popen([*PROBE, "wait"], cwd=CHECKOUT, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout and process.stdout.readline() == b"waits\n"
    assert process.poll() is None
    os.killpg(process.pid, number)
    assert process.wait(timeout=30) == -number


def test_the_server_ends_with_its_owner_and_what_it_forked_does_not() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=CHECKOUT, env=clean(), stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    server, program = map(int, owner.stdout.readline().split())
    owner.kill()
    owner.wait()
    until = time.monotonic() + 30
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert Path(f"/proc/{program}").exists()
    os.kill(program, signal.SIGKILL)
    owner.stdout.close()


OWNER = """
import sys, time
from jobs.launch import fork
server = fork.ForkServer.here()
process = server.popen([sys.executable, "-u", "-m", "tests.jobs.probe", "wait"], start_new_session=True, stdout=2)
print(server.pid, process.pid, flush=True)
time.sleep(60)
"""


def test_a_server_that_is_gone_says_so() -> None:
    server = fork.ForkServer.fresh(())
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(fork.Gone):
        server.popen([*PROBE, "facts"], cwd=CHECKOUT)
    with pytest.raises(fork.Gone):  # and not what was asked before
        server.popen([*PROBE, "facts"], cwd=CHECKOUT)
    server.close()


UNSAFE = {
    "a thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "CUDA": "import torch; torch.cuda.is_initialized = lambda: True",
    "SLIPWAY_FORK": "import os; os.environ['SLIPWAY_FORK'] = '0'",
    "another system": "import sys; sys.platform = 'darwin'",
}


@pytest.mark.parametrize("why", UNSAFE)
def test_where_a_fork_is_not_safe_there_is_no_server(why: str) -> None:
    code = (
        f"from jobs.launch import fork; {UNSAFE[why]}; print(fork.unsafe(), fork.ForkServer.here(), sep=';')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, env=clean(), capture_output=True, text=True, timeout=60
    )
    reason, _, server = done.stdout.strip().partition(";")
    assert (bool(reason), server) == (True, "None"), done


@pytest.mark.parametrize(
    ("command", "forked"),
    [
        ((sys.executable, "-u", "-m", "jobs.train", "--train.steps=1"), True),
        ((sys.executable, "-u", "-m", "tests.jobs.hanging"), True),
        ((sys.executable, "-u", "-m", "jobsite.train"), False),
        ((sys.executable, "-u", "-m", "mine"), False),
        ((sys.executable, "-u", "mine.py", "-m", "jobs.train"), False),
        (("/usr/bin/python3", "-u", "-m", "jobs.train"), False),
        (("numactl", "--cpunodebind=0", sys.executable, "-u", "-m", "jobs.train"), False),
    ],
)
def test_only_programs_of_the_checkout_are_forked(command: tuple[str, ...], forked: bool) -> None:
    assert fork.can_run(command) == forked


MINE = """
import os, sys
assert "torch" not in sys.modules, "it could not say so before torch is imported"
os.environ["OMP_NUM_THREADS"] = "2"
import pickle
def told(): return "of __main__"
assert pickle.loads(pickle.dumps(told))() == "of __main__"
print(sys.argv[1:], sys.path[0], __name__, __file__, os.environ["RANK"])
if sys.argv[1] == "fail":
    raise ValueError("as asked")
"""


def test_a_persons_own_script_is_started_afresh(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(textwrap.dedent(MINE))
    command = [sys.executable, "-m", "jobs.torchrun", "--standalone", "--nproc-per-node=1", str(script)]
    done = subprocess.run([*command, "a b"], cwd=CHECKOUT, env=clean(), capture_output=True, text=True)
    assert done.stdout == f"['a b'] {tmp_path} __main__ {script} 0\n", done
    done = subprocess.run([*command, "fail"], cwd=CHECKOUT, env=clean(), capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(
        rf'Traceback .*\n  File "{script}", line \d+, in <module>\n.*\n(.*\n)?ValueError: as asked',
        done.stderr,
    )


def test_with_and_without_a_fork_the_losses_are_the_same(trainer: Trainer, undisturbed: Trainer) -> None:
    """`undisturbed` was forked, as all of these tests are."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jobs.torchrun", "--standalone", "--nproc-per-node=2"),
            *("-m", "jobs.train", *trainer.options()),
        ],
        cwd=CHECKOUT,
        env={**clean(), "SLIPWAY_FORK": "0"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done
    assert trainer.losses() == undisturbed.losses()


def test_a_signal_during_the_start_leaves_no_worker_behind(tmp_path: Path) -> None:
    """It comes as soon as the first of three workers is there, while the agent still starts the others."""
    process = forks().popen(
        [
            *(sys.executable, "-u", "-m", "jobs.torchrun", "--standalone", "--nproc-per-node=3"),
            *(*PROBE[2:], "wait"),
        ],
        cwd=CHECKOUT,
        env=clean(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    while not workers(process.pid):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)  # which ends when the last one has closed its output
    assert process.returncode == 128 + signal.SIGTERM
