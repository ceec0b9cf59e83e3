"""What every place looks at alike: the end of a journal, and how full the disk is."""

import shutil
from pathlib import Path

from infra.base.paths import CHECKOUT, cache
from infra.base.process import run

JOURNAL = ["journalctl", "--no-pager", "--no-hostname", "--output=short-iso", "--lines=40"]


def disk(runs: Path) -> dict[str, float]:
    """GiB free where the checkout is, in the cache, and below `runs`."""
    return {
        "free_gib": round(shutil.disk_usage(CHECKOUT).free / 2**30, 1),
        "cache_gib": _gib(cache()),
        "runs_gib": _gib(runs),
    }


def disk_line(found: dict[str, float], runs: str) -> str:
    """What `disk` found, for people."""
    return f"\ndisk: {found['free_gib']} GiB free; cache {found['cache_gib']} GiB, {runs} {found['runs_gib']} GiB"


def _gib(folder: Path) -> float:
    """GiB on disk below `folder`; 0 where it is not there."""
    if not folder.exists():
        return 0.0
    # Not by process.output: files may go while they are counted, which du calls a failure.
    done = run(["du", "-sk", folder], capture_output=True, text=True)
    return round(int((done.stdout or "0").split()[0]) / 2**20, 2)
