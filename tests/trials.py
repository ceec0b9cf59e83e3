"""What tests of a lab and of a kind cluster do alike: bring it up once, take it away, press Ctrl-C in the middle."""

import os
import signal
import subprocess
from collections.abc import Callable

from infra.base.paths import CHECKOUT
from infra.base.wait import until
from infra.bench.trial import INTERRUPTIBLE
from tests.hostile import HOSTILE


def first_up(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`make cluster-up` from a shell that has been set up for something else; what it says in one text.

    The tests fail when it does.
    """
    first = subprocess.run(
        ["make", "cluster-up"],
        cwd=CHECKOUT,
        env=env | HOSTILE,
        umask=0o077,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(first.stdout)
    assert first.returncode == 0, first.stdout
    return first


def down(env: dict[str, str]) -> bool:
    """`make cluster-down PURGE=1`, unless SLIPWAY_KEEP says that the cluster is to stay; whether it was removed."""
    if os.environ.get("SLIPWAY_KEEP"):
        return False
    subprocess.run(["make", "cluster-down", "PURGE=1"], cwd=CHECKOUT, env=env, check=True)
    return True


def ctrl_c(words: list[str], env: dict[str, str], what: str, when: Callable[[], object]) -> None:
    """A command that meets Ctrl-C as soon as `when()` is true ends at once, and says how to go on."""
    typed = subprocess.Popen(
        [*INTERRUPTIBLE, *words],
        cwd=CHECKOUT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, which a terminal would signal as one
    )
    until(what, when)
    os.killpg(typed.pid, signal.SIGINT)
    said, _ = typed.communicate(timeout=60)
    assert typed.returncode != 0
    assert "run the same command again" in said, said
    assert "Traceback" not in said
