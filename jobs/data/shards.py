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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jobs.cli.errors import Failure, Mistake

FORMAT = 1  # of the shards; another one gives another folder
# Not the language's library but what is installed into it, its tests (odd bytes on purpose), and its caches.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3"}
SPLITS = ("train", "validation")

PIECE = 1 << 20  # bytes of a file that are read at a time

Source = tuple[str, Path]  # the path that the text has in the corpus, and the file
Array = Any  # numpy's arrays: the tooling's type checker runs without numpy


def sources(root: Path | None = None) -> list[Source]:
    """Relative path and file of each source of the standard library, sorted by path."""
    root = root or Path(sysconfig.get_path("stdlib"))
    found = sorted(
        path for path in root.rglob("*.py") if not LEFT_OUT.intersection(path.relative_to(root).parts[:-1])
    )
    return [(path.relative_to(root).as_posix(), path) for path in found if path.is_file()]


def in_validation(path: str, share: float) -> bool:
    """Whether a file is held out: its path's hash, read as a number in [0, 1), is below the share."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64 < share


class Name:
    """The corpus' name, which holds a hash of all that goes into its shards: the files are taken in, in order."""

    def __init__(self, *, shard_bytes: int, validation: float) -> None:
        self._digest = hashlib.sha256(f"{FORMAT} {shard_bytes} {validation!r}".encode())

    def take(self, source: Source) -> Iterator[bytes]:
        """The file's content in pieces. Raises Failure."""
        path, file = source
        try:
            with file.open("rb") as content:
                size = os.fstat(content.fileno()).st_size
                self._digest.update(f"\n{path} {size}\n".encode())
                while piece := content.read(PIECE):
                    self._digest.update(piece)
                    yield piece
        except OSError as error:
            raise Failure(f"data: {file}: {error.strerror}") from error

    def __str__(self) -> str:
        return f"stdlib-{self._digest.hexdigest()[:12]}"


def name_of(texts: Iterable[Source], *, shard_bytes: int, validation: float) -> str:
    """The name of the corpus of these files. Raises Failure."""
    name = Name(shard_bytes=shard_bytes, validation=validation)
    for source in texts:
        for _ in name.take(source):
            pass
    return str(name)


def prepare(
    folder: Path, *, shard_bytes: int, validation: float, texts: Sequence[Source] | None = None
) -> Path:
    """Write the shards of the corpus below `folder`, or find them there. Returns their folder.

    The folder's name holds a hash of everything that went in. It is written beside its place and renamed, so
    that it is whole or not there; of two jobs that prepare at once, on any file system, one wins the rename
    and both use the same bytes. No lock is needed. No more than a piece of a file is held in memory.
    """
    texts = sources() if texts is None else texts
    ready = folder / name_of(texts, shard_bytes=shard_bytes, validation=validation)
    if ready.exists():
        return ready
    files = Counter(_split_of(path, validation) for path, _ in texts)
    for split in SPLITS:
        if not files[split]:
            raise Mistake(f"data.validation: {validation} of {len(texts)} files leaves none for {split}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half_done = Path(tempfile.mkdtemp(prefix=f".{ready.name}-", dir=folder))
    except OSError as error:
        raise Failure(f"data: {folder} cannot be written: {error.strerror}") from error
    try:
        name, streams = Name(shard_bytes=shard_bytes, validation=validation), {}
        for split in SPLITS:
            streams[split] = Stream(half_done, split, shard_bytes)
        for path, file in texts:
            stream = streams[_split_of(path, validation)]
            for piece in name.take((path, file)):
                stream.write(piece)
            stream.write(b"\0")
        shards = {file: facts for stream in streams.values() for file, facts in stream.close().items()}
        if str(name) != ready.name:
            raise Failure("data: a file of the corpus changed while it was prepared; start again")
        manifest = {"format": FORMAT, "shards": shards, "files": {split: files[split] for split in SPLITS}}
        _write(half_done / "manifest.json", json.dumps(manifest, indent=1).encode())
        half_done.chmod(0o755)  # mkdtemp's own is 0700; the data is for all who share the folder
        half_done.rename(ready)
    except OSError as error:
        if not ready.exists():  # another job was not faster, so it is a real error
            raise Failure(f"data: {folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(half_done, ignore_errors=True)
    return ready


def _split_of(path: str, validation: float) -> str:
    return "validation" if in_validation(path, validation) else "train"


class Stream:
    """The bytes of a split, cut into shards of a size as they come."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._size = folder, split, shard_bytes
        self._shards: dict[str, dict[str, Any]] = {}
        self._file: Any = None

    def write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            if self._file is None:
                self._name = f"{self._split}-{len(self._shards):05d}.bin"
                self._file = (self._folder / self._name).open("wb")
                self._digest, self._left = hashlib.sha256(), self._size
            part, rest = rest[: self._left], rest[self._left :]
            self._file.write(part)
            self._digest.update(part)
            self._left -= len(part)
            if not self._left:
                self._end()

    def close(self) -> dict[str, dict[str, Any]]:
        """The shards with their sizes and SHA-256, all on the disk."""
        if self._file is not None:
            self._end()
        return self._shards

    def _end(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._shards[self._name] = {
            "bytes": self._size - self._left,
            "sha256": self._digest.hexdigest(),
        }


def check(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Compare every `parts`-th shard, from `part` on, with its checksum. Raises Failure with the file."""
    for file, facts in sorted(_manifest(folder)["shards"].items())[part::parts]:
        try:
            with (folder / file).open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
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
