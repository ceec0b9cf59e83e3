"""The ledger of samples: which sample was trained on in which step. `python -m jobs samples` proves that it is whole.

Every data-parallel rank writes a file `samples/rank-<number>.bin` in the run's folder: a line of JSON with what the
order depends on, then a record for each step (little-endian):

    step u32, counted from 1 | count u32 | position u64 | count sample numbers u32 | CRC-32 u32 of all before

`position` is the place of the first sample in the run's global order, (step - 1) * batch + the samples of the ranks
before. A start on another number of ranks goes on in the same files and in more or fewer of them. As in
metrics.jsonl, a resumed run first drops the steps after its checkpoint: what was computed and thrown away did not
shape the weights. Written without a buffer: what a killed process did is there.

4 bytes for a sample: less than 1 % of what is read for it from 400 bytes of context on.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.errors import Failure

FORMAT = 1
HEAD = struct.Struct("<IIQ")
CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """The samples of one data-parallel rank in one step."""

    step: int
    position: int
    samples: tuple[int, ...]

    def packed(self) -> bytes:
        body = HEAD.pack(self.step, len(self.samples), self.position)
        body += struct.pack(f"<{len(self.samples)}I", *self.samples)
        return body + CRC.pack(zlib.crc32(body))


class Ledger:
    """The file of data-parallel rank `part` of `parts`, open for the steps after those that are kept.

    `order` is what the global order depends on: samples, seed, batch. To be made after `drop` was called once, by
    one rank for all.
    """

    def __init__(self, folder: Path, part: int, parts: int, order: dict[str, int]) -> None:
        self.path = folder / f"rank-{part:04d}.bin"
        self._before = order["batch"] * part // parts
        self._batch = order["batch"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            if not self._file.tell():
                self._file.write(json.dumps({"format": FORMAT, **order}).encode() + b"\n")
        except OSError as error:
            raise self._full(error) from error

    def write(self, step: int, samples: list[int]) -> None:
        """Add this rank's samples of a step, which counts from 1. Raises Failure when the disk takes no more."""
        record = Record(step, (step - 1) * self._batch + self._before, tuple(samples)).packed()
        try:
            if self._file.write(record) != len(record):
                raise OSError(0, "written in part")
        except OSError as error:
            raise self._full(error) from error

    def sync(self) -> None:
        """Make all records last. Before a checkpoint, so that each step in the weights is in the ledger."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from error

    def close(self) -> None:
        self._file.close()

    def _full(self, error: OSError) -> Failure:
        return Failure(f"{self.path}: {error.strerror}; make room and submit the job again")


def drop(folder: Path, step: int) -> None:
    """Cut the records after `step` from every file of the ledger, and a last one that is torn."""
    for path in sorted(folder.glob("rank-*.bin")):
        try:
            if not step:
                path.unlink()
                continue
            end = 0
            for record, end_of_record in _records(path, whole=False):
                if record is not None and record.step > step:
                    break
                end = end_of_record
            os.truncate(path, end)
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from error


def read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Header and records of a file; a last record that was cut off is left out. Raises Failure for a damaged one."""
    header, records = {}, []
    for record, _ in _records(path):
        if record is None:
            with path.open("rb") as file:
                header = json.loads(file.readline())
        else:
            records.append(record)
    return header, records


def _records(path: Path, whole: bool = True) -> Iterator[tuple[Record | None, int]]:
    """The header as None, then each whole record, with the offset of its end.

    A damaged record raises Failure, or with `whole=False` is the end: what a dying machine wrote after the last
    checkpoint may be anything, and is dropped anyway.
    """
    content = path.read_bytes()
    at = content.find(b"\n") + 1
    if not at:  # cut off in its first line
        return
    try:
        known = json.loads(content[:at]).get("format")
    except ValueError:
        known = None
    if known != FORMAT:
        raise Failure(f"{path}: format {known}, this program reads {FORMAT}")
    yield None, at
    while len(content) - at >= HEAD.size:
        step, count, position = HEAD.unpack_from(content, at)
        body = at + HEAD.size + 4 * count
        if body + CRC.size > len(content):
            return
        if CRC.unpack_from(content, body)[0] != zlib.crc32(content[at:body]):
            if not whole:
                return
            raise Failure(f"{path}: damaged at byte {at}: its checksum is another one")
        samples = struct.unpack_from(f"<{count}I", content, at + HEAD.size)
        at = body + CRC.size
        yield Record(step, position, samples), at
