"""Pulumi's own lock, which it keeps in its state: it outlives a killed process, and is lifted when that is dead.

Beside it stands ours (infra/base/lock.py), which says whose it is before Pulumi begins.
"""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path


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
