"""Text as token shards: prepared once, checksummed, and read by each rank only where its samples lie.

The text is the Python standard library's own sources: real, in every image, nothing to download. A token is a
byte, a zero byte ends each file. Files are split into training and validation by a hash of their path, so
that no file is in both and a longer corpus moves no old file to the other side.

    <folder>/stdlib-<12 hex of the content>/train-00000.bin ... validation-00000.bin ... manifest.json

The order of training samples is a function of seed and step only (`Order`): nothing has to be saved to go on
after an interruption, on any number of ranks.
"""

import hashlib
import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jobs.cli.errors import Failure, Mistake

FORMAT = 1  # of the shards; another one gives another folder
# Not the language's library but what is installed into it, its tests (odd bytes on purpose), and its caches.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3"}
SPLITS = ("train", "validation")

Array = Any  # numpy's arrays: the tooling's type checker runs without numpy


def sources(root: Path | None = None) -> list[tuple[str, bytes]]:
    """Relative path and content of each source file of the standard library, sorted by path."""
    root = root or Path(sysconfig.get_path("stdlib"))
    found = sorted(
        path for path in root.rglob("*.py") if not LEFT_OUT.intersection(path.relative_to(root).parts[:-1])
    )
    return [(path.relative_to(root).as_posix(), path.read_bytes()) for path in found if path.is_file()]


def in_validation(path: str, share: float) -> bool:
    """Whether a file is held out: its path's hash, read as a number in [0, 1), is below the share."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64 < share


def name_of(texts: list[tuple[str, bytes]], *, shard_bytes: int, validation: float) -> str:
    """The corpus' name, which holds a hash of all that goes into its shards."""
    digest = hashlib.sha256(f"{FORMAT} {shard_bytes} {validation!r}".encode())
    for path, text in texts:
        digest.update(f"\n{path} {len(text)}\n".encode())
        digest.update(text)
    return f"stdlib-{digest.hexdigest()[:12]}"


def prepare(
    folder: Path, *, shard_bytes: int, validation: float, texts: list[tuple[str, bytes]] | None = None
) -> Path:
    """Write the shards of the corpus below `folder`, or find them there. Returns their folder.

    The folder's name holds a hash of everything that went in. It is written beside its place and renamed, so
    that it is whole or not there; of two jobs that prepare at once, on any file system, one wins the rename
    and both use the same bytes. No lock is needed.
    """
    texts = sources() if texts is None else texts
    ready = folder / name_of(texts, shard_bytes=shard_bytes, validation=validation)
    if ready.exists():
        return ready
    split: dict[str, list[tuple[str, bytes]]] = {name: [] for name in SPLITS}
    for path, text in texts:
        split["validation" if in_validation(path, validation) else "train"].append((path, text))
    for name, members in split.items():
        if not members:
            raise Mistake(f"data.validation: {validation} of {len(texts)} files leaves none for {name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half_done = Path(tempfile.mkdtemp(prefix=f".{ready.name}-", dir=folder))
    except OSError as error:
        raise Failure(f"data: {folder} cannot be written: {error.strerror}") from error
    try:
        manifest: dict[str, Any] = {"format": FORMAT, "shards": {}, "files": {}}
        for name, members in split.items():
            stream = b"".join(text + b"\0" for _, text in members)
            manifest["files"][name] = len(members)
            for number, start in enumerate(range(0, len(stream), shard_bytes)):
                shard = stream[start : start + shard_bytes]
                file = f"{name}-{number:05d}.bin"
                _write(half_done / file, shard)
                manifest["shards"][file] = {"bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest()}
        _write(half_done / "manifest.json", json.dumps(manifest, indent=1).encode())
        half_done.chmod(0o755)  # mkdtemp's own is 0700; the data is for all who share the folder
        half_done.rename(ready)
    except OSError as error:
        shutil.rmtree(half_done, ignore_errors=True)
        if not ready.exists():  # another job was not faster, so it is a real error
            raise Failure(f"data: {folder} cannot be written: {error.strerror}") from error
    return ready


def check(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Compare every `parts`-th shard, from `part` on, with its checksum. Raises Failure with the file."""
    for file, facts in sorted(_manifest(folder)["shards"].items())[part::parts]:
        try:
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise Failure(f"data: {folder / file}: {error.strerror}; remove {folder}") from error
        if found != facts["sha256"]:
            raise Failure(
                f"data: {folder / file}: sha256 is {found[:12]}..., should be {facts['sha256'][:12]}...; "
                f"remove {folder} and the next run prepares it again"
            )


class Split:
    """The training or the validation part: windows of `context` bytes and the byte after each.

    Windows do not overlap and do not cross shards. Shards are mapped, not read: only pages of windows that
    are asked for come from the disk.
    """

    def __init__(self, folder: Path, name: str, context: int) -> None:
        shards = _manifest(folder)["shards"]
        self.context = context
        self.shards = [
            np.memmap(folder / file, dtype=np.uint8, mode="r")
            for file in sorted(shards)
            if file.startswith(name)
        ]
        counts = [max(0, (len(shard) - 1) // context) for shard in self.shards]
        self.starts = np.cumsum([0, *counts])
        if not len(self):
            raise Mistake(f"model.context: {context} bytes is longer than any {name} shard in {folder}")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def windows(self, indices: Sequence[int]) -> Array:
        """The windows of these numbers, shape (len(indices), context + 1), uint8."""
        rows = np.empty((len(indices), self.context + 1), dtype=np.uint8)
        for row, index in enumerate(indices):
            shard = int(np.searchsorted(self.starts, index, side="right")) - 1
            start = (int(index) - int(self.starts[shard])) * self.context
            rows[row] = self.shards[shard][start : start + self.context + 1]
        return rows


class Order:
    """Which sample comes when: every epoch is a permutation of all samples, given by the seed."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> Array:
        source = np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
        return np.random.Generator(source).permutation(self.samples)

    def batch(self, step: int, size: int, *, rank: int = 0, ranks: int = 1) -> list[int]:
        """Numbers of the samples of `rank` in a step's global batch of `size`; steps count from 0."""
        return self.between(step * size + size * rank // ranks, step * size + size * (rank + 1) // ranks)

    def between(self, first: int, last: int) -> list[int]:
        """Numbers of the samples at the places `first` up to, not including, `last` of all epochs in a row."""
        return [int(self._epoch(at // self.samples)[at % self.samples]) for at in range(first, last)]


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each shard, as the manifest has it and `check` has found it."""
    return {file: facts["sha256"] for file, facts in sorted(_manifest(folder)["shards"].items())}


def _manifest(folder: Path) -> Any:
    try:
        return json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"data: {folder / 'manifest.json'}: {error}; remove {folder}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
