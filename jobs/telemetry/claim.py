"""Which folder a run has, and whether it may go on there.

    runs/17                  Slurm's job 17; 17_3 for task 3 of array 17
    runs/20260131-120000     outside Slurm: the moment
    runs/17-2                where another cluster's job 17, another step of this job, or another run of this second
                             has that name already

Whose a folder is, its `claim.json` says, and a file for each start of the job which run of that start went on in it.
Both come into the world at once, the first with the folder, so of two runs that want one name each gets its own. A
named folder (`--run.folder`) is taken as it is, if it can be one.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jobs.cli import files, options
from jobs.cli.errors import Failure, Mistake
from jobs.cluster import kubernetes, slurm

LATEST = "latest"  # the link beside the folders of runs, to the newest
CLAIM = "claim.json"
QUIET_S = 120.0  # a step or a save may take so long


def attempt() -> int:
    """How often this job was started before: by Slurm's requeue or torchrun's restart; in Kubernetes, see `starts`."""
    rounds = (int(os.environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "SLIPWAY_ROUND"))
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) + max(
        rounds
    )  # torch's leaves out changes of nodes


def starts(folder: Path) -> int:
    """How often this run was started before and came to a training step; a pod is not told what was before it."""
    try:
        before = len((folder / "attempts.jsonl").read_text().splitlines())
    except OSError:
        before = 0
    return before if kubernetes.inside() else max(before, attempt())


def choose(named: str, runs: Path = Path("runs")) -> Path:
    """The folder of this run (rank 0 decides): the named one, the job's, or one for this moment. Raises Mistake.

    A job's folder is gone on with only when Slurm started the same job again. Job numbers begin at 1 in a new
    cluster, so a folder of that name may be an older one's: it is moved aside, not trained on. One in which another
    run is at work stays where it is.

    In Kubernetes the folder is named after the job, whose pods are started again for many reasons: all of them go
    on with it, until it is completed. What is completed is moved aside.
    """
    try:
        return _named(Path(named)) if named else _own(runs)
    except OSError as error:
        raise Failure(f"{error.filename or named or runs}: {error.strerror}; a run needs a folder") from error


def _named(folder: Path) -> Path:
    folder = _behind_link(folder)
    where = folder.resolve()
    if Path.cwd().resolve().is_relative_to(where):
        raise Mistake(
            f"--run.folder={folder}: holds all of this; name a folder of the run's own, such as runs/mine"
        )
    if folder.name == LATEST:
        raise Mistake(
            f"--run.folder={folder}: is the link to the newest run's folder; name another, such as runs/mine"
        )
    if folder.exists() and not folder.is_dir():
        raise Mistake(f"--run.folder={folder}: is a file")
    inside = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    if inside and not (folder / "config.yaml").exists():
        raise Mistake(
            f"--run.folder={folder}: holds runs ({', '.join(inside[:3])}); name one of them, or a new one"
        )
    if kubernetes.inside() and completed(folder):
        _aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _behind_link(folder: Path) -> Path:
    """The run that a link such as runs/latest points to. Raises Mistake where it is gone."""
    if not folder.is_symlink():
        return folder
    target = folder.parent / folder.readlink()
    if not target.exists():
        raise Mistake(f"--run.folder={folder}: points to {folder.readlink()}, which is not there")
    return target if folder.name == LATEST else folder


def _own(runs: Path) -> Path:
    job, run, mine = slurm.number(), _run(), _mine()
    name = job or os.environ.get("SLIPWAY_RUN") or moment()
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        if not os.path.lexists(folder):
            if _claim(folder, mine, run):
                return folder
            continue  # another run was faster
        mark = folder / _mark()
        if attempt() and mark.exists() and mark.read_text() == run:
            return folder  # torchrun has started the workers again
        own = claimed(folder) in (None, mine)
        if job and attempt():
            if own and _exclusive(mark, run):
                return folder
        elif job and not mark.exists() and (own or not _live(folder)):
            _aside(folder)  # of an earlier cluster, whose numbers were the same
            continue
        number += 1


def _live(folder: Path) -> bool:
    """Whether a run may be at work in a folder: it came to no end, and something was written there just now."""
    if (folder / "summary.json").exists():
        return False
    newest = max((entry.stat().st_mtime for entry in os.scandir(folder)), default=0.0)
    return time.time() - newest < QUIET_S


def of_this_start(runs: Path = Path("runs")) -> Path | None:
    """The folder that this start of Slurm's job has taken, whichever of its processes did."""
    taken = [path.parent for path in runs.glob(f"{slurm.number()}*/{_mark()}")]
    return next((folder for folder in taken if claimed(folder) in (None, _mine())), None)


def _mine() -> dict[str, str | None]:
    job = slurm.number()
    return {
        "cluster": os.environ.get("SLURM_CLUSTER_NAME") if job else None,
        "job": job,
        "step": os.environ.get("SLURM_STEP_ID") if job else None,
    }


def _run() -> str:
    """The same for all workers of a run, in all places where torchrun starts them again; of no other run."""
    torchruns = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # which is its default
    return torchruns if torchruns != "none" else os.environ.get("SLIPWAY_AGENT_ID") or uuid.uuid4().hex


def _mark() -> str:
    """The file by which a run says that it went on in a folder in this start of its job."""
    start = [os.environ.get(name, "0") for name in ("SLURM_JOB_START_TIME", "SLURM_RESTART_COUNT")]
    return f".started-{'-'.join(start)}"


def moment() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def claimed(folder: Path) -> dict[str, Any] | None:
    """Whose a folder is; None where nobody wrote it down."""
    try:
        found = json.loads((folder / CLAIM).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _claim(folder: Path, mine: Mapping[str, Any], run: str) -> bool:
    """Make the folder with its claim, at once. False when it is there meanwhile."""
    beside = folder.with_name(f".claim-{uuid.uuid4().hex}")
    beside.mkdir()
    (beside / CLAIM).write_text(json.dumps(mine) + "\n")
    (beside / _mark()).write_text(run)
    try:
        beside.rename(folder)
    except OSError:
        shutil.rmtree(beside)
        if not os.path.lexists(folder):
            raise
        return False
    return True


def _exclusive(file: Path, text: str) -> bool:
    """Make a file; False when another process has."""
    try:
        with file.open("x") as opened:
            opened.write(text)
    except FileExistsError:
        return False
    return True


def completed(folder: Path) -> bool:
    """Whether the summary of a run says that it reached its last step."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(summary.get("state") == "completed")


def _aside(folder: Path) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
    folder.rename(files.free(folder.with_name(f"{folder.name}-until-{stamp}")))


def link_latest(folder: Path) -> None:
    """Let `latest` beside the folder point to it. What a person has put there under that name stays."""
    link = folder.with_name(LATEST)
    if os.path.lexists(link) and not link.is_symlink():
        return
    beside = folder.with_name(f".latest-{os.getpid()}")
    beside.symlink_to(folder.name)
    beside.replace(link)


def keep_config(folder: Path, text: str) -> None:
    """Write `config.yaml`, the whole of it or nothing: others read it while the run goes on."""
    files.put(folder / "config.yaml", text)


def take(named: str, config: str, trajectory: Collection[str], may_change: Collection[str]) -> Path:
    """The folder of this run, in which it can go on. Raises Mistake.

    `config`: as `options.to_yaml` writes it. A new run's is written down at once; one that goes on keeps its earlier
    one until it has a checkpoint to go on from (`keep_config`).
    """
    folder = choose(named)
    check(folder, config, trajectory, may_change)
    if not _has_past(folder):
        keep_config(folder, config)
    return folder


def check(folder: Path, text: str, trajectory: Collection[str], may_change: Collection[str]) -> None:
    """Whether a run with the configuration `text` can go on in `folder`. Raises Mistake that names what differs.

    `trajectory`: the keys that the weights depend on, of which `may_change` may be others at each start.
    """
    if not _has_past(folder):
        return
    try:
        before = options.flat((folder / "config.yaml").read_text())
    except OSError:
        return
    now = options.flat(text)
    different = [
        f"{key} {before[key]}, this one {now[key]}"
        for key in trajectory
        if key not in may_change and key in before and key in now and before[key] != now[key]
    ]
    if different:
        raise Mistake(
            f"{folder}: the run in it has {'; '.join(different)}. "
            "For a run of its own name another folder, --run.folder=FOLDER"
        )


def _has_past(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("metrics.jsonl", "checkpoints"))
