"""Proving a cluster with a training job, once, and saying what the job learned."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

from infra.base import files
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.progress import Step, console
from infra.proof import run as job


@dataclass
class Done:
    """What has been reached for which inputs; kept in build/<cluster>/state.json."""

    FILE: ClassVar[str] = "state.json"

    applied: str = ""  # hash of everything rendered and of the node image, once all nodes were healthy
    verified: bool = False  # whether the checks have passed since a container was last started
    submitted: str = ""  # the job that is to prove it, while it has not ended
    proved: str = ""  # the job that has completed on this cluster; stays until its volumes go

    @classmethod
    def load(cls, folder: Path) -> Self:
        return files.noted(folder / cls.FILE, cls) or cls()

    def save(self, folder: Path) -> None:
        files.put(folder / self.FILE, json.dumps(asdict(self), indent=2) + "\n")


def prove(nodes: job.Nodes, user: str, script: str, done: Done, folder: Path, this: Step) -> job.Run:
    """Run `script` to its end; the job of an earlier run that was interrupted is followed, not repeated."""
    run = job.find(nodes, done.submitted) if done.submitted else None
    if not run:
        run = job.submit(nodes, user, Path(script))
        done.submitted = run.id
        done.save(folder)
    job.follow(nodes, run, this)
    this.did(trained(run, script))
    done.submitted = ""
    done.save(folder)
    return run


def trained(run: job.Run, script: str) -> str:
    """What the job that proved a cluster has done, in a line."""
    summary = run.summary
    if not summary.get("bits_per_byte"):
        return f"{Path(script).stem}  job {run.id} completed"
    nodes = len(set(summary["hosts"]))
    got = summary["bits_per_byte"]["validation"]
    return (
        f"{Path(script).stem}  {nodes} nodes x {summary['world_size'] // nodes} rank"
        f"   step {summary['step']}/{summary['steps']}   {got:.2f} bits/byte"
    )


def say_what_it_learned(run: job.Run) -> None:
    bits = run.summary.get("bits_per_byte")
    if not bits:
        return
    got, bigram = bits["validation"], bits["bigram"]
    if got >= bigram:
        raise Failure(
            f"job {run.id} completed but did not learn: {got:.2f} bits per byte on validation,"
            f" a bigram model has {bigram:.2f}\n  log: {run.output}"
        )
    console.print(
        f"Trained. {got:.2f} bits per byte on validation; a bigram model has {bigram:.2f}, so it learned."
    )
    seconds = job.since_start(run)
    first = f"From nothing to the first training step: {_minutes(seconds)}. " if seconds else ""
    console.print(f"{first}Report: {shown(run.folder)}/report.html")


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s" if seconds >= 60 else f"{seconds:.0f} s"


def shown(folder: Path) -> Path:
    """A path as people type it, from the checkout."""
    return folder.relative_to(CHECKOUT) if folder.is_relative_to(CHECKOUT) else folder
