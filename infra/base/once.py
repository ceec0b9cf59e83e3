"""Building a thing once: a name made from everything that goes into it, and a lock while it is made."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from infra.base import lock
from infra.base.paths import cache


def content_hash(root: Path, paths: Iterable[Path], *more: str) -> str:
    """12 hex digits of SHA-256 over the names (below `root`), modes and contents of `paths`, and over `more`.

    A folder stands for all files in it, except those that no image is made from.
    """
    digest = hashlib.sha256()
    for path in sorted(_files(paths)):
        name, executable = path.relative_to(root).as_posix(), bool(path.stat().st_mode & 0o100)
        digest.update(f"{name}\0{executable}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    for text in more:
        digest.update(f"{len(text)}\0{text}".encode())
    return digest.hexdigest()[:12]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file() and not _ignored(file))
        else:
            yield path


def _ignored(file: Path) -> bool:
    # The configure half of a role is for real machines.
    return file.name in ("README.md", "configure.yml") or "__pycache__" in file.parts


def only_one(what: str) -> AbstractContextManager[None]:
    """Hold the lock on building `what`: a second command that builds it waits for the first."""
    return lock.waited(cache() / "locks" / hashlib.sha256(what.encode()).hexdigest()[:16])
