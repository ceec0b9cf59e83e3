"""One run at a time on the machines of a cluster: a lock that says whose it is, and Pulumi's own locks.

The first is an flock on build/<cluster>/provision.lock: the kernel frees it with the process that holds it. Pulumi
keeps another in its state, which outlives a killed process; that one is lifted only when its process is dead.
"""

import fcntl
import getpass
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from infra.base.errors import Failure


@contextmanager
def held(file: Path, cluster: str) -> Iterator[None]:
    """Hold the lock of `cluster` while the block runs. Raises Failure that says who has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Failure(refusal(cluster, lock.read())) from None
        lock.truncate(0)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        lock.write(
            json.dumps({"pid": os.getpid(), "user": user(), "host": socket.gethostname(), "since": now})
        )
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def refusal(cluster: str, content: str) -> str:
    """What someone is told who finds the lock held; `content` is what its holder has written."""
    try:
        who = json.loads(content)
        whose = f"{who['user']} (pid {who['pid']} on {who['host']}) since {who['since']}"
    except (ValueError, KeyError):
        whose = "another run that has just begun"
    return f"the machines of {cluster} are being worked on by {whose}: wait until that is done, or end it"


def user() -> str:
    """The person, also behind sudo."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock in Pulumi's state, as its message names them."""

    user: str
    host: str
    pid: int
    since: str

    @property
    def dead(self) -> bool:
        """Whether that process has ended for certain: only this host's processes can be known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        # The number may be another process's by now; a dead process stays until its parent has asked for it.
        found = re.match(r"\d+ \((.*)\) (\w)", Path(f"/proc/{self.pid}/stat").read_text())
        return not found or not found[1].startswith("pulumi") or found[2] == "Z"


def holders(message: str) -> list[Holder]:
    """The holders that Pulumi's refusal names: `created by root@host (pid 12) at 2026-...`."""
    found = re.findall(r"created by (\S+)@(\S+) \(pid (\d+)\) at (\S+)", message)
    return [Holder(user, host, int(pid), since) for user, host, pid, since in found]
