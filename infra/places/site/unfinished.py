"""What a run of Ansible that was stopped, or that failed on a machine, had still to do there.

A file that it has copied is no change any more when it runs again, so that nobody would restart what reads it.
build/<cluster>/unfinished.json: machine -> handlers that were notified and have not run.
"""

import json
from pathlib import Path

from infra.base import files


def load(folder: Path) -> dict[str, list[str]]:
    return files.state(folder / "unfinished.json") or {}


def save(folder: Path, before: dict[str, list[str]], now: dict[str, list[str]], done: set[str]) -> None:
    """Add `now` to `before`, without the machines in `done`, on which a run has come to its end."""
    found = {
        host: sorted({*before.get(host, []), *now.get(host, [])})
        for host in sorted({*before, *now})
        if host not in done
    }
    file = folder / "unfinished.json"
    if not found:
        file.unlink(missing_ok=True)
        return
    files.put(file, json.dumps(found, indent=2) + "\n")
