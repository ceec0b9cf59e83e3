"""States of Slurm's nodes, and what each means: written once, for every place that has Slurm.

A node is *heard* when slurmctld hears from it. One that is heard *takes* jobs, or is *kept* from them: by a person or
by its health check, which is nothing that a start has to wait for or to mend, or because slurmctld itself does not
want it, which makes it *sick*.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# What `sinfo -N` is asked for; the reason, which people write, comes last.
FORMAT = "%N|%T|%u|%E"
ASK = ("sinfo", "-h", "-N", "-o", FORMAT)

# Node state codes of sinfo(1): the sign at a state's end; `*` says that the node does not answer.
SIGNS = "*~#!%$@^-+"
SILENT = "*"
TAKES = {"idle", "mixed", "allocated", "completing", "planned", "reserved", "maint", "blocked"}
KEPT = {"drained", "draining", "drain", "failing", "fail"}
NOBODY = {"", "Unknown"}  # whom sinfo names where no reason was given
HEALTH = "health:"  # what the health check's reasons begin with (slurm/health_check.py)
SLURM = "slurm"  # the user that slurmctld runs as, and gives reasons of its own as


@dataclass(frozen=True)
class Node:
    """A node as slurmctld sees it; `state` in sinfo's words, with its sign."""

    name: str
    state: str = "unknown*"
    reason: str = ""
    by: str = ""

    @property
    def plain(self) -> str:
        return self.state.rstrip(SIGNS).lower()

    @property
    def answers(self) -> bool:
        """Whether its slurmd does."""
        return SILENT not in self.state and self.plain != "unknown"

    @property
    def drained(self) -> bool:
        """Whether it gets no new jobs because someone said so."""
        return self.plain in KEPT

    @property
    def out(self) -> bool:
        """Whether it is out of service, whoever took it out: it comes back when someone resumes it."""
        return self.drained or self.plain == "down"

    @property
    def heard(self) -> bool:
        """Whether slurmctld hears from it and it is in service, or out of it because someone said so."""
        return SILENT not in self.state and self.plain in TAKES | KEPT and not self.sick

    @property
    def takes(self) -> bool:
        """Whether it runs jobs, now or after those that are there."""
        return SILENT not in self.state and self.plain in TAKES

    @property
    def well(self) -> bool:
        """Whether nothing is wrong with it; that a person keeps jobs away is their business."""
        return self.heard and not self.reason.startswith(HEALTH)

    @property
    def kept(self) -> bool:
        """Whether a person or its health check keeps jobs away from it."""
        return self.heard and self.drained

    @property
    def sick(self) -> bool:
        """Whether slurmctld itself keeps jobs away: less memory or fewer GPUs than configured, say."""
        return self.plain.startswith("inval") or (self.drained and self.by == SLURM)

    @property
    def why(self) -> str:
        """For people: `c1 is drained: disk is tested (by root)`."""
        said = f": {self.reason}" if self.reason else ""
        return f"{self.name} is {self.state}{said}" + (f" (by {self.by})" if said and self.by else "")


def parse(text: str) -> dict[str, Node]:
    """What ASK prints, by name; a node of two partitions is named twice."""
    found: dict[str, Node] = {}
    for line in text.splitlines():
        name, state, by, reason = [*line.split("|", 3), "", "", ""][:4]
        known = name and state and name not in found
        if known:
            found[name] = Node(name, state, "" if reason == "none" else reason, "" if by in NOBODY else by)
    return found


def silent(wanted: Iterable[str], known: dict[str, Node]) -> list[Node]:
    """Those of `wanted` that cannot be used, which is never a person's doing."""
    nodes = (known.get(name, Node(name)) for name in wanted)
    return [node for node in nodes if not node.heard]


def kept(wanted: Iterable[str], known: dict[str, Node]) -> list[Node]:
    """Those of `wanted` that someone keeps jobs away from."""
    return [known[name] for name in wanted if name in known and known[name].kept]
