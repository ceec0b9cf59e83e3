"""What a launcher costs: seconds from the command to the moment when both of its ranks run, beside bare torchrun.

The ranks run jobs/whoami.py, which needs no torch, so that nothing is counted but the launcher itself.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.bench.figure import Figure
from jobs.cli.errors import Failure

ROUNDS = 3
PATIENCE_S = 120
WHOAMI = "jobs.whoami"
SUBMITIT = """
import dataclasses, sys
from jobs.launch import ddp_submitit, executor
given = {"options": sys.argv[1:2], "outputs": sys.argv[2]}
job = dataclasses.replace(ddp_submitit.JOB, module="jobs.whoami", check=None, **given)
executor.submit(job, cluster="local")[0].wait()
"""


def launchers() -> list[Figure]:
    """Each launcher in turn, and again: the median of its rounds."""
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="runs") as room:
        stack = Path(room) / "stack"  # a Python for TorchX's command line: the one that runs this
        (stack / "bin").mkdir(parents=True)
        (stack / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (stack / "bin/python").chmod(0o755)
        took: dict[str, list[float]] = {}
        for turn in range(ROUNDS):
            for name in COMMANDS:
                took.setdefault(name, []).append(_seconds(name, Path(room) / f"{name}-{turn}", stack))
    bare = statistics.median(took.pop(BARE))
    figures = [Figure(f"{BARE}, to both ranks", bare, "s")]
    for name, times in took.items():
        figures.append(Figure(f"{name}, to both ranks", statistics.median(times), "s", bare, BARE))
    return figures


BARE = "torchrun"
COMMANDS = {
    BARE: [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        WHOAMI,
        "--folder={ranks}",
    ],
    "jobs.torchrun": [
        "-m",
        "jobs.torchrun",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        WHOAMI,
        "--folder={ranks}",
    ],
    "TorchX local_cwd": [
        *("-m", "jobs.torchx", "run", "-s", "local_cwd", "-cfg", "log_dir={logs}", "--wait"),
        *("jobs.ddp", "-j", "1x2", "-m", WHOAMI, "--", "--folder={ranks}"),
    ],
    "submitit local": ["-c", SUBMITIT, "--folder={ranks}", "{logs}"],
}


def _seconds(name: str, folder: Path, stack: Path) -> float:
    """Until both ranks have written what they were told. Raises Failure when the launcher fails."""
    folder.mkdir()
    ranks, logs = folder.absolute() / "ranks", folder.absolute() / "logs"
    words = [word.replace("{ranks}", str(ranks)).replace("{logs}", str(logs)) for word in COMMANDS[name]]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "STACK": str(stack.absolute())}
    began = time.monotonic()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([sys.executable, *words], env=env, stdout=output, stderr=output)
        while len(list(ranks.glob("rank-*.json"))) < 2:
            if process.poll() not in (None, 0) or time.monotonic() - began > PATIENCE_S:
                process.kill()
                tail = (folder / "output").read_text(errors="replace")[-2000:]
                raise Failure(f"{name}: no two ranks after {time.monotonic() - began:.0f} s:\n{tail}")
            time.sleep(0.01)
        took = time.monotonic() - began
        process.wait(PATIENCE_S)
    return took


MEASURES = {"launchers": launchers}
