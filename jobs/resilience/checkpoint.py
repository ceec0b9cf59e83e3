"""Checkpoints that can be trusted: sharded, written behind the training's back, whole or not there.

    <run>/checkpoints/step-000100/__0_0.distcp __1_0.distcp .metadata manifest.json

`save` copies the state to CPU memory and returns; a thread writes it with torch.distributed.checkpoint (each
rank its share), hashes what it wrote, and rank 0 adds a manifest and renames the folder into place. Every
file is on the disk before the rename, so a folder without a dot in front is complete. All ranks queue the
same saves in the same order on one thread each, and that thread has its own process group: its collectives
meet each other and never the training's.

A disk that is full costs a checkpoint and not the run: the half-written folder is removed, rank 0 says what
happened, training goes on, and the next save tries again.

`load` takes the newest checkpoint that is this run's own (kept.py) and whole. Another is refused by name, with the
reason; where no other than foreign ones are there, the run is refused: it would begin again in another one's folder.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.cli.errors import Mistake
from jobs.parallel import versions
from jobs.parallel.ranks import Ranks
from jobs.resilience import kept
from jobs.resilience.staging import Stage
from jobs.trainable import Trainable


@dataclass
class Checkpoints:
    """Saves and loads the checkpoints of one run. Every method is called by all ranks."""

    folder: Path
    keep: int
    facts: Mapping[str, Any]  # what the weights depend on; a checkpoint with other facts is foreign
    ranks: Ranks
    say: Callable[[str], None]
    may_change: Collection[str] = ()  # those of the facts that may be others than at an earlier start

    def __post_init__(self) -> None:
        self.owner = kept.Owner(self.facts, self.may_change)
        self.changed: dict[str, tuple[Any, Any]] = {}  # what is another since the checkpoint that was loaded
        self.stall_s: list[float] = []  # time that each save kept the training waiting
        self.write_s: list[float] = []  # time that each save took behind it
        self.bytes = 0  # of the last one, all ranks together
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[int]] | None = None
        self._stage = Stage(gpu=self.ranks.device.type == "cuda")

    def save(self, step: int, trained: Trainable) -> None:
        """Start to save the state after `step` steps. Waits for the save before, if that still runs."""
        self.finish()
        start = time.perf_counter()
        staged = self._stage.copy(_state(trained, self.ranks))
        self._pending = (step, self._writer.submit(self._write, step, staged))
        self.stall_s.append(time.perf_counter() - start)

    def finish(self) -> bool:
        """Wait until the last save is on the disk. False, after a message, when it is not."""
        if self._pending is None:
            return True
        step, future = self._pending
        start = time.perf_counter()
        error = future.exception()
        self.stall_s[-1] += time.perf_counter() - start
        self._pending = None
        if error is None:
            self.bytes = future.result()
            return True
        if self.ranks.first:
            shutil.rmtree(self._half_done(step), ignore_errors=True)
        self.say(f"checkpoint of step {step} NOT saved: {_reason(error)}; training goes on without it")
        return False

    def load(self, trained: Trainable) -> int:
        """Load the newest usable checkpoint. Returns its step, 0 for none. Raises Mistake: all are foreign."""
        if self.ranks.first:
            kept.clear(self.folder)
        foreign, torn = [], False
        for step in reversed(self.ranks.told(kept.steps(self.folder) if self.ranks.first else None)):
            folder = self.folder / kept.name(step)
            its = self.ranks.told(_manifest(folder) if self.ranks.first else None)
            if isinstance(its, str):
                reason: str | None = its
            elif reason := self.owner.refuses(its, step):
                foreign.append(f"{folder}: {reason}")
            elif reason := next(filter(None, self.ranks.gathered(self._torn(folder, its))), None):
                torn = True
            else:
                self._read(folder, trained)
                self.changed = self.owner.changed(its["facts"])
                return int(step)
            self.say(f"checkpoint {folder} refused: {reason}")
        if foreign and not torn:
            raise Mistake(f"{foreign[0]}. For a run of its own name another folder, --run.folder=FOLDER")
        return 0

    def close(self) -> None:
        self.finish()
        self._writer.shutdown()

    def _half_done(self, step: int) -> Path:
        return self.folder / f".{kept.name(step)}"

    def _write(self, step: int, state: dict[str, Any]) -> int:
        """Write a staged state (in the background thread). Returns the checkpoint's size in bytes."""
        import torch.distributed as dist
        import torch.distributed.checkpoint as dcp

        start = time.perf_counter()
        group, folder = self.ranks.background, self._half_done(step)
        if self.ranks.first:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
        versions.exceptions_travel()
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, sync_files=True), process_group=group)
        try:
            mine: Any = {
                file.name: describe(file)
                for file in folder.iterdir()
                if file.name.startswith(f"__{self.ranks.rank}_")
                or (self.ranks.first and file.name == ".metadata")
            }
        except OSError as error:
            mine = error
        files: dict[str, Any] = {}
        for theirs in self.ranks.gathered(mine):
            if isinstance(theirs, OSError):
                raise theirs
            files.update(theirs)
        outcome: OSError | None = None
        if self.ranks.first:
            try:
                self._commit(step, folder, files)
            except OSError as error:
                outcome = error
        box = [outcome]
        dist.broadcast_object_list(box, src=0, group=group)
        if box[0] is not None:
            raise box[0]
        self.write_s.append(time.perf_counter() - start)
        return sum(facts["bytes"] for facts in files.values())

    def _commit(self, step: int, folder: Path, files: dict[str, Any]) -> None:
        """Add the manifest, put the folder in its place, and remove what is older than the last `keep`."""
        manifest = {
            "format": kept.FORMAT,
            "step": step,
            "world_size": self.ranks.size,
            "files": files,
            "facts": dict(self.facts),
        }
        with (folder / "manifest.json").open("w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync(folder)
        aside = kept.put(folder, self.folder, step, self.owner)
        _sync(self.folder)
        if aside:
            self.say(f"{kept.name(step)} in {self.folder} was not this run's: it is {aside.name} now")
        kept.prune(self.folder, step, self.keep, self.owner)

    def _torn(self, folder: Path, manifest: dict[str, Any]) -> str | None:
        """Which file is not as it was written; each rank reads its share of them."""
        for name, facts in sorted(manifest["files"].items())[self.ranks.rank :: self.ranks.size]:
            try:
                found = describe(folder / name)
            except OSError as error:
                return f"torn: {name}: {error.strerror}"
            if found["bytes"] != facts["bytes"]:
                return f"torn: {name} has {found['bytes']} bytes, should have {facts['bytes']}"
            if found["sha256"] != facts["sha256"]:
                return f"torn: {name}: sha256 {found['sha256'][:12]}..., should be {facts['sha256'][:12]}..."
        return None

    def _read(self, folder: Path, trained: Trainable) -> None:
        import torch.distributed.checkpoint as dcp

        state = _state(trained, self.ranks)
        written = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        if f"random.{self.ranks.rank}" not in written:  # saved by fewer ranks: this one has its seed
            del state["random"]
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), process_group=self.ranks.background)
        trained.load_state(state)
        if "random" in state:
            torch.set_rng_state(state["random"][str(self.ranks.rank)])


def _state(trained: Trainable, ranks: Ranks) -> dict[str, Any]:
    """Everything that the next step depends on and that seed and step do not give."""
    return {**trained.state(), "random": {str(ranks.rank): torch.get_rng_state()}}  # each rank's own


def _manifest(checkpoint: Path) -> dict[str, Any] | str:
    """A checkpoint's manifest, or why it cannot be read."""
    try:
        return kept.manifest(checkpoint)
    except OSError as error:
        return f"manifest.json: {error.strerror}"
    except ValueError as error:
        return f"manifest.json: {error}"


def describe(file: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _reason(error: BaseException) -> str:
    """The root of an error of torch.distributed.checkpoint, which holds one for each rank that failed."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (cause, _) = min(failures.items())
        return f"rank {rank}: {_reason(cause)}"
    while not isinstance(error, OSError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    if "unexpected pos" in str(error):  # torch's zip writer, where a write took less than it was given
        return "a write was cut short: the disk is full, or the file as large as it may be"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _sync(folder: Path) -> None:
    """Make renames and new names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
