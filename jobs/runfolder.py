"""A folder for each run, with all that it takes to understand it later.

runs/<job id, job name in Kubernetes, or time>/
    config.yaml        the whole configuration; `--config` takes it again
    environment.json   code version, stack, hosts, launcher
    metrics.jsonl      a line for each step
    attempts.jsonl     a line for each start: what it resumed from, phases up to its first step
    checkpoints/
    summary.json  loss.png  report.html
runs/latest            link to the newest
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jobs import kubernetes

LAUNCHER = (
    "SLURM_",
    "PET_",
    "KUBERNETES_",
    "MASTER_",
    "TORCHELASTIC_",
    "CUDA_VISIBLE_DEVICES",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "OMP_NUM_THREADS",
)
SECRET = ("TOKEN", "JWT", "KEY", "SECRET", "PASSWORD")


def attempt() -> int:
    """How often this job was started before: by Slurm's requeue or torchrun's restart; in Kubernetes, see `starts`."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) + int(
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    )


def starts(folder: Path) -> int:
    """How often this run was started before and came to a training step; a pod is not told what was before it."""
    if not kubernetes.inside():
        return attempt()
    return len(_lines(folder / "attempts.jsonl"))


def choose(named: str) -> Path:
    """The folder of this run (rank 0 decides): the named one, the job's, or one for this moment.

    A job's folder is gone on with only when Slurm started the same job again. Job numbers begin at 1 in a new
    cluster, so a folder of that name may be another cluster's: it is moved aside, not trained on.

    In Kubernetes the folder is named after the job, whose pods are started again for many reasons: all of them go
    on with it, until it is completed. What is completed is moved aside.
    """
    if named:
        folder = Path(named)
        if kubernetes.inside() and completed(folder):
            _aside(folder)
    else:
        job = os.environ.get("SLURM_JOB_ID")
        folder = Path("runs") / (job or time.strftime("%Y%m%d-%H%M%S"))
        if folder.exists() and not attempt():
            _aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def completed(folder: Path) -> bool:
    """Whether the summary of a run says that it reached its last step."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(summary.get("state") == "completed")


def _aside(folder: Path) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
    folder.rename(folder.with_name(f"{folder.name}-until-{stamp}"))


def link_latest(folder: Path) -> None:
    """Let `latest` beside the folder point to it."""
    beside = folder.with_name(f".latest-{os.getpid()}")
    beside.symlink_to(folder.name)
    beside.replace(folder.with_name("latest"))


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all: others read these files while the job runs."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


def environment(hosts: list[str], device: str, seed: int, versions: dict[str, str]) -> dict[str, Any]:
    """What else the result may depend on. Names of secrets are left out of the launcher's variables."""
    return {
        "command": sys.argv,
        "seed": seed,
        "stack": stack(),
        "image": os.environ.get("SLIPWAY_IMAGE") or _first_line(Path("/etc/slipway/image")),
        "git": git(),
        "python": platform.python_version(),
        **versions,
        "device": device,
        "hosts": hosts,
        "launcher": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(LAUNCHER) and not any(word in name.upper() for word in SECRET)
        },
    }


def host() -> str:
    """This machine in a line: name, processor, cores that this process may use, memory, kernel."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    return f"{platform.node()}: {processor}, {cores} cores, {memory_gib:.0f} GiB, Linux {platform.release()}"


def stack() -> str:
    """The stack folder's name, which ends with the hash of its lock: `cuda13-0123456789ab`."""
    return Path(sys.prefix).resolve().name


def git() -> dict[str, Any] | None:
    """Commit of the checkout and whether it had changes; None without git or outside a checkout."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str | None:
    return next(iter(_lines(path)), None)
