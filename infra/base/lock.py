"""One at a time: a lock that a second comer waits for, and one that tells a second comer whose it is.

Both are `filelock`'s, which are flocks: the kernel frees them with the process that holds them, however that ends,
so that a holder that died does not hold. Who holds one is written beside it, in a file that only people read.
"""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from infra.base import files
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT


@contextmanager
def waited(file: Path) -> Iterator[None]:
    """Hold the lock `file` while the block runs; a second one waits until then."""
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file, poll_interval=0.1):
        yield


@contextmanager
def held(file: Path, what: str) -> Iterator[None]:
    """Hold the lock `file` while the block works on `what`. Raises Failure that says who does so already."""
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise Failure(refusal(what, holder(file))) from None
    try:
        files.put(_beside(file), json.dumps(_me()) + "\n")
        yield
    finally:
        _beside(file).unlink(missing_ok=True)
        lock.release()


def holder(file: Path) -> dict[str, str]:
    """Who holds the lock, as its holder has written it; empty when it has not yet, or is not to be believed."""
    try:
        found = {str(key): str(value) for key, value in json.loads(_beside(file).read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
    if found.get("host") == socket.gethostname() and not Path(f"/proc/{found.get('pid')}").exists():
        return {}  # it died, and the one that has the lock now has not written yet
    return found if {"user", "pid", "host", "since", "checkout"} <= found.keys() else {}


def refusal(what: str, who: dict[str, str]) -> str:
    """What someone is told who finds the lock held."""
    whose = "another run that has just begun"
    if who:
        elsewhere = "" if who["checkout"] == str(CHECKOUT) else f", from {who['checkout']},"
        whose = f"{who['user']} (pid {who['pid']} on {who['host']}){elsewhere} since {who['since']}"
    return f"{what} is being worked on by {whose}: wait until that is done, or end it"


def person() -> str:
    """Who types, also behind sudo."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id that has no name
        return str(os.getuid())


def _me() -> dict[str, str]:
    return {
        "user": person(),
        "pid": str(os.getpid()),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "checkout": str(CHECKOUT),
    }


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.holder")
