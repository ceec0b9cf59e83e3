"""The checkpoints in a run's folder: what is one, in which order they come, and whose they are. No torch.

    step-000950  step-1000000                  the number of steps, in six digits or more: by number, not by name
    step-000950-best  step-notes.txt  a link   a person's own: never counted, never read, never removed

A checkpoint is the run's own when its manifest says the step that its name says, and of all that may not change
between two starts of a run what the run says. Any other is foreign: not counted among those that are kept, and not
removed; where its name is needed, it is moved aside.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.files import free

FORMAT = 2
_NAME = re.compile(r"step-([0-9]{6,})")
_LEFT_OVER = re.compile(r"\.(step|gone)-[0-9]{6,}")


def name(step: int) -> str:
    return f"step-{step:06d}"


def steps(folder: Path) -> list[int]:
    """The steps of which a checkpoint is in `folder`, whosever it is, the oldest first."""
    found = []
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    for entry in entries:
        number = _NAME.fullmatch(entry.name)
        if number and name(int(number[1])) == entry.name and entry.is_dir(follow_symlinks=False):
            found.append(int(number[1]))
    return sorted(found)


def manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises OSError and ValueError."""
    found = json.loads((checkpoint / "manifest.json").read_text())
    if not isinstance(found, dict) or not isinstance(found.get("facts"), dict):
        raise ValueError("not a checkpoint's manifest")
    return found


@dataclass(frozen=True)
class Owner:
    """A run, as its checkpoints know it."""

    facts: Mapping[str, Any]  # what the weights depend on
    may_change: Collection[str] = ()  # those of them that may be others at the next start

    def differs(self, its: Mapping[str, Any]) -> list[str]:
        """What makes a checkpoint with these facts another run's, a phrase each."""
        return [
            f"{key} {its.get(key)!r}, this run has {mine!r}"
            for key, mine in self.facts.items()
            if key not in self.may_change and its.get(key) != mine
        ]

    def changed(self, its: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What is another now and may be: key, and value before and now."""
        return {key: (its[key], mine) for key, mine in self.facts.items() if key in its and its[key] != mine}

    def refuses(self, its: Mapping[str, Any], step: int) -> str | None:
        """Why a checkpoint with this manifest, named after `step`, is not the run's own; None when it is."""
        if its.get("format") != FORMAT:
            return f"format {its.get('format')}, this program reads {FORMAT}"
        if its.get("step") != step:
            return f"a copy: it holds step {its.get('step')}"
        different = self.differs(its["facts"])
        return f"foreign: made with {', '.join(different)}" if different else None

    def owns(self, folder: Path, step: int) -> bool:
        """Whether the checkpoint of `step` in `folder` is there, can be read, and is the run's own."""
        checkpoint = folder / name(step)
        try:
            return not checkpoint.is_symlink() and self.refuses(manifest(checkpoint), step) is None
        except (OSError, ValueError):
            return False


def clear(folder: Path) -> None:
    """Remove what an earlier start left half written or half removed."""
    if folder.is_dir():
        for entry in list(os.scandir(folder)):
            if _LEFT_OVER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)


def put(written: Path, folder: Path, step: int, owner: Owner) -> Path | None:
    """Give what was written whole its name. Returns where a foreign one of that name went to."""
    final, aside = folder / name(step), None
    if os.path.lexists(final):
        if owner.owns(folder, step):
            _remove(folder, step)  # one that was torn, or it would not be written again
        else:
            aside = free(folder / f"{name(step)}-aside")
            final.rename(aside)
    written.rename(final)
    return aside


def prune(folder: Path, step: int, keep: int, owner: Owner) -> None:
    """Remove the run's own checkpoints up to that of `step`, which was just written, but for the last `keep`.

    Later ones are left: they were refused when this start began, and do not push out what it writes.
    """
    mine = [each for each in steps(folder) if each <= step and owner.owns(folder, each)]
    for old in mine[:-keep]:
        _remove(folder, old)


def _remove(folder: Path, step: int) -> None:
    """In two moves: what is half removed does not look like a checkpoint."""
    gone = folder / f".gone-{step:06d}"
    shutil.rmtree(gone, ignore_errors=True)
    (folder / name(step)).rename(gone)
    shutil.rmtree(gone)
