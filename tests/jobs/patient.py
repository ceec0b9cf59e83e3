"""For test_launchers.py: a program that needs two starts. It waits to be warned, then asks to be started again."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.cluster import slurm
from jobs.resilience import signals


def main(arguments: Sequence[str]) -> int:
    (named,) = [word.partition("=")[2] for word in arguments if word.startswith("--run.folder=")]
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "begun"
    if begun.exists():
        (folder / "summary.json").write_text(json.dumps({"state": "completed", "step": 2}))
        return 0
    begun.touch()
    warnings = signals.Warnings()
    warnings.listen()
    while signals.REQUEUE not in warnings.got:
        time.sleep(0.05)
    (folder / "summary.json").write_text(json.dumps({"state": "interrupted", "step": 1}))
    slurm.requeue()
    return 0
