"""What slurmctld runs with beside what was rendered: settings, nodes and partitions that someone changed live.

`scontrol show config` prints most values as slurm.conf has them, some with a unit or a default filled in; only
what can be compared word by word is.
"""

import re
from collections.abc import Iterator

from infra.model import hostlist

# Lines that describe others than the controller itself, or that scontrol prints in another form.
ENTRIES = ("NodeName", "PartitionName", "SlurmctldHost", "SlurmUser", "Include")
# Of a node, what `scontrol show node` prints under another name.
NODE_NAMES = {
    "RealMemory": "RealMemory",
    "Sockets": "Sockets",
    "CoresPerSocket": "CoresPerSocket",
    "Weight": "Weight",
}
PARTITION_NAMES = {"MaxTime": "MaxTime", "DefaultTime": "DefaultTime", "PriorityTier": "PriorityTier"}


def settings(text: str) -> dict[str, str]:
    """Key and value of every plain line of slurm.conf."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#") and key not in ENTRIES:
            found[key] = value.strip()
    return found


def entries(text: str, kind: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each NodeName or PartitionName line: what it names, and its other words."""
    for line in text.splitlines():
        # the first of a name: comments and reasons, which people write, stand at the end of a line
        words = dict(reversed([word.split("=", 1) for word in line.split() if "=" in word]))
        if line.startswith(f"{kind}=") and words.get(kind) != "DEFAULT":
            yield words.pop(kind), words


def running(shown: str) -> dict[str, str]:
    """`scontrol show config` as keys and values."""
    found = {}
    for line in shown.splitlines():
        key, equals, value = line.partition(" = ")
        if equals:
            found[key.strip()] = value.strip()
    return found


def differences(conf: str, config: str, nodes: str, partitions: str) -> list[tuple[str, str, str, str]]:
    """(what, key, rendered, running) of everything that slurmctld runs with otherwise.

    `conf` is the rendered slurm.conf; the others are what `scontrol show config`, `-o show node` and
    `-o show partition` print.
    """
    now = running(config)
    found = [
        ("slurmctld", key, value, now[key])
        for key, value in settings(conf).items()
        if key in now and not same(value, now[key])
    ]
    found += _entries(conf, "NodeName", nodes, NODE_NAMES)
    found += _entries(conf, "PartitionName", partitions, PARTITION_NAMES)
    return found


def _entries(conf: str, kind: str, shown: str, keys: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    live = {}
    for line in shown.splitlines():
        # the first of a name: comments and reasons, which people write, stand at the end of a line
        words = dict(reversed([word.split("=", 1) for word in line.split() if "=" in word]))
        if kind in words:
            live[words[kind]] = words
    wanted = set()
    for name, words in entries(conf, kind):
        for one in hostlist.expand(name):
            wanted.add(one)
            if one not in live:
                yield one, kind, "stated", "not known to slurmctld"
                continue
            for key, shown_as in keys.items():
                if key in words and not same(words[key], live[one].get(shown_as, "")):
                    yield one, key, words[key], live[one].get(shown_as, "nothing")
    for one in live:
        if one not in wanted:
            yield one, kind, "not stated", "known to slurmctld"


def same(stated: str, shown: str) -> bool:
    """Whether scontrol's form of a value means what slurm.conf says: 15 is `15 sec`, 7-0 is `7-00:00:00`."""
    bare = re.sub(r"\s+(sec|min|hours?|days?|MB|percent)$", "", shown)
    if stated.lower() in (shown.lower(), bare.lower()):
        return True
    if bare in ("(null)", "None", "none", "N/A"):
        return stated.lower().rpartition("/")[2] in ("none", "")
    if seconds(stated) is not None and seconds(stated) == seconds(bare):
        return True
    wanted, got = set(stated.lower().split(",")), set(bare.lower().split(","))
    # Slurm counts cpu, mem and others beside what AccountingStorageTRES names
    return wanted == got or ("billing" in got and wanted <= got)


def seconds(text: str) -> int | None:
    """A duration as Slurm writes it (7-0, 1-00:00:00, 01:30:00); None for anything else."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found or (found[1] is None and found[3] is None):
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
