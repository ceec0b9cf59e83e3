"""Two runs at once: the second waits, or says whose the first is; a holder that died does not hold."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.base import lock
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT

HOLD = """
import sys
from pathlib import Path
from infra.base import lock
with lock.{how}(Path(sys.argv[1]){what}):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(file: Path, how: str = "held") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(how=how, what=', "x"' if how == "held" else ""), str(file)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_the_second_run_says_whose_the_first_is(tmp_path: Path) -> None:
    other = hold(tmp_path / "lock")
    with pytest.raises(Failure) as refused, lock.held(tmp_path / "lock", "cluster 'x'"):
        pass
    host = re.escape(socket.gethostname())
    who = rf"^cluster 'x' is being worked on by {lock.person()} \(pid {other.pid} on {host}\) since \d{{4}}-\d\d-\d\dT"
    assert re.search(who, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)
    other.kill()
    other.wait()
    with lock.held(tmp_path / "lock", "x"):
        pass  # the kernel has freed it


def test_the_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError), lock.held(tmp_path / "lock", "x"):
        raise ValueError
    with lock.held(tmp_path / "lock", "x"):
        pass


def test_a_refused_run_leaves_the_holder_its_name(tmp_path: Path) -> None:
    other = hold(tmp_path / "lock")
    for _ in range(2):
        with pytest.raises(Failure, match=f"pid {other.pid}"), lock.held(tmp_path / "lock", "x"):
            pass
    other.kill()
    other.wait()


def test_another_checkout_is_named(tmp_path: Path) -> None:
    who = {"user": "ada", "pid": "1", "host": "vm", "since": "2026-01-01T00:00:00", "checkout": "/home/ada/x"}
    assert "ada (pid 1 on vm), from /home/ada/x, since" in lock.refusal("it", who)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"user": "ada"}'])
def test_a_holder_that_has_not_written_yet_is_still_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock.holder").write_text(content)
    assert lock.holder(tmp_path / "lock") == {}
    assert "another run" in lock.refusal("it", {})


def test_what_a_dead_holder_wrote_is_not_believed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with lock.held(tmp_path / "lock", "x"):
        told = json.loads((tmp_path / "lock.holder").read_text())
        assert lock.holder(tmp_path / "lock")["pid"] == str(os.getpid())
    (tmp_path / "lock.holder").write_text(json.dumps(told | {"pid": str(gone.pid)}))
    assert lock.holder(tmp_path / "lock") == {}


def test_a_second_builder_waits_for_the_first_and_not_for_a_dead_one(tmp_path: Path) -> None:
    other = hold(tmp_path / "lock", "waited")
    threading.Timer(0.5, other.kill).start()
    begin = time.monotonic()
    with lock.waited(tmp_path / "lock"):
        assert time.monotonic() - begin > 0.4
    other.wait()
