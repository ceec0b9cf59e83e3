"""A folder for each run, with all that it takes to understand it later.

runs/<job id, job name in Kubernetes, or time>/
    config.yaml        the whole configuration; `--config` takes it again
    environment.json   what else the result depends on: code, stack, image, data, seed, machines, versions, launcher
    code.diff          what the checkout's tracked files had that the commit has not; only where it had changes
    metrics.jsonl      a line for each step that counts
    discarded.jsonl    those that were computed and lost, by an interruption after the last checkpoint
    attempts.jsonl     a line for each start: what it resumed from, phases up to its first step, what it held
    ends.jsonl         a line for each orderly end
    checkpoints/
    summary.json  report.html
runs/latest            link to the newest
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.cli import files


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The only variables that are kept. By name and not by prefix: what a site, a plugin or a person adds under SLURM_ or
# PET_ may be a secret, and nobody would see it before it is in a folder that others read.
KEPT = _words("""
    SLURM_CLUSTER_NAME SLURM_JOB_ID SLURM_JOB_NAME SLURM_JOB_PARTITION SLURM_JOB_QOS SLURM_JOB_ACCOUNT
    SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES SLURM_NNODES SLURM_NTASKS SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK
    SLURM_CPUS_ON_NODE SLURM_GPUS_ON_NODE SLURM_MEM_PER_NODE SLURM_RESTART_COUNT SLURM_ARRAY_JOB_ID
    SLURM_ARRAY_TASK_ID SLURM_SUBMIT_DIR
    PET_NNODES PET_NPROC_PER_NODE PET_NODE_RANK PET_RDZV_BACKEND PET_RDZV_ENDPOINT PET_RDZV_ID PET_MAX_RESTARTS
    PET_MASTER_ADDR PET_MASTER_PORT KUBERNETES_SERVICE_HOST
    MASTER_ADDR MASTER_PORT WORLD_SIZE LOCAL_WORLD_SIZE
    TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS TORCHX_JOB_ID SUBMITIT_EXECUTOR
    CUDA_VISIBLE_DEVICES GLOO_SOCKET_IFNAME NCCL_SOCKET_IFNAME NCCL_IB_HCA NCCL_NET NCCL_DEBUG SLIPWAY_GPUS
""")
# Those that the last bits may depend on: `python -m jobs replay` sets them as they were.
NUMERIC = _words("""
    OMP_NUM_THREADS MKL_NUM_THREADS MKL_CBWR OPENBLAS_NUM_THREADS ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA
    CUBLAS_WORKSPACE_CONFIG NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE NCCL_ALGO NCCL_PROTO
    PYTHONHASHSEED
""")
DIFF_BYTES = 1 << 20  # a longer diff is not kept, only named by its hash


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all: others read these files while the job runs."""
    files.put(path, json.dumps(content, indent=1) + "\n")


def environment(
    hosts: list[str], device: str, seed: int, versions: dict[str, str], **more: Any
) -> dict[str, Any]:
    """What else the result may depend on; `more` is what only the program knows, such as its data."""
    return {
        "command": sys.argv,
        "seed": seed,
        "stack": stack(),
        "image": image(),
        "git": git(),
        "code": code(),
        "python": platform.python_version(),
        **versions,
        "device": device,
        "cpu": processor(),
        "cpu_vectors": vectors(),
        "hosts": hosts,
        "launcher": variables(KEPT),
        "numeric": variables(NUMERIC),
        **more,
    }


def variables(names: frozenset[str]) -> dict[str, str]:
    """Those environment variables of `names` that are set."""
    return {name: value for name, value in sorted(os.environ.items()) if name in names}


def host() -> str:
    """This machine in a line: name, processor, cores that this process may use, memory, kernel."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.node()}: {processor()}, {cores} core{'' if cores == 1 else 's'}, {memory_gib:.0f} GiB, "
        f"Linux {platform.release()}"
    )


def processor() -> str:
    """The CPU's name."""
    lines = _lines(Path("/proc/cpuinfo"))
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def vectors() -> str:
    """The widest vectors of this CPU: kernels are chosen by them, and sum in another order."""
    lines = _lines(Path("/proc/cpuinfo"))
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return next((name for name in ("avx512f", "avx2", "sve", "asimd") if name in flags), "none")


def code(folder: Path | None = None) -> str:
    """One hash of every Python file in a folder, or of one file; of this program's own jobs/ if none is named."""
    folder = folder or Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def image() -> str | None:
    """The container image with its digest, as the pod or the node names it; None on a plain machine."""
    return os.environ.get("SLIPWAY_IMAGE") or _first_line(Path("/etc/slipway/image"))


def stack() -> str:
    """The stack folder's name, which ends with the hash of its lock: `cuda13-0123456789ab`."""
    return Path(sys.prefix).resolve().name


def git() -> dict[str, Any] | None:
    """Commit of the checkout, whether it had changes, and which untracked files lay in jobs/.

    None without git or outside a checkout.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    if commit is None or changes is None:
        return None
    new = [line[3:] for line in changes.splitlines() if line.startswith("?? jobs/")]
    return {"commit": commit.strip(), "dirty": bool(changes), "untracked": new[:50]}


def keep_diff(path: Path) -> dict[str, Any] | None:
    """Write what tracked files have that the commit has not; untracked ones may hold secrets and are left out.

    Returns the diff's size and hash; None when there is nothing to keep. A diff longer than DIFF_BYTES is not
    written.
    """
    path.unlink(missing_ok=True)
    text = _git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "--full-index", "HEAD")
    if not text:
        return None
    content = text.encode(errors="surrogateescape")
    if len(content) <= DIFF_BYTES:
        path.write_bytes(content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "kept": path.exists()}


def _git(*words: str) -> str | None:
    """What git says in this folder; None when it cannot."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str | None:
    return next(iter(_lines(path)), None)
