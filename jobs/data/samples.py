"""The ledger of samples: which sample was trained on in which step, and the proof that none was lost or repeated.

    python -m jobs.data.samples runs/17

Every data-parallel rank writes a file `samples/rank-<number>.bin` in the run's folder: a line of JSON with what the
order depends on, then a record for each step (little-endian):

    step u32, counted from 1 | count u32 | position u64 | count sample numbers u32 | CRC-32 u32 of all before

`position` is the place of the first sample in the run's global order, (step - 1) * batch + the samples of the ranks
before. A start on another number of ranks goes on in the same files and in more or fewer of them. As in
metrics.jsonl, a resumed run first drops the steps after its checkpoint: what was computed and thrown away did not
shape the weights. Written without a buffer: what a killed process did is there.

4 bytes for a sample: less than 1 % of what is read for it from 400 bytes of context on.
"""

import argparse
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.errors import Failure, Mistake, told
from jobs.telemetry import metrics

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


def prove(run: Path) -> str:
    """A line that says what holds. Raises Failure with the first thing that does not.

    The places of the global order that the records cover are 0, 1, 2, ... without a gap or an overlap, each epoch
    has no sample twice, a whole one has all, and the order is that of the seed, whatever number of ranks trained.
    """
    paths = sorted((run / "samples").glob("rank-*.bin"))
    if not paths:
        raise Mistake(f"{run}: has no samples/rank-*.bin; give the folder of a run, such as runs/latest")
    read_ones = [read(path) for path in paths]
    order = next((header for header, _ in read_ones if header), {})
    if any(header and header != order for header, _ in read_ones):
        raise Failure(f"{run}: ledgers of several orders: {[header for header, _ in read_ones]}")
    if not order:
        raise Failure(f"{paths[0]}: has no header")
    by_step: dict[int, list[Record]] = {}
    for _, records in read_ones:
        for record in records:
            by_step.setdefault(record.step, []).append(record)
    last = _last_step(run, by_step)
    samples, batch = int(order["samples"]), int(order["batch"])
    sequence: list[int] = []
    shapes: list[int] = []
    for step in range(1, last + 1):
        parts = sorted(by_step.get(step, []), key=lambda record: record.position)
        for record in parts:
            if record.position > len(sequence):
                raise Failure(
                    f"{run}: step {step}: samples {len(sequence)} to {record.position - 1} were lost"
                )
            if record.position < len(sequence):
                raise Failure(
                    f"{run}: step {step}: sample {record.position} of the order was trained on twice"
                )
            sequence += record.samples
        if len(sequence) < step * batch:
            raise Failure(f"{run}: step {step}: samples {len(sequence)} to {step * batch - 1} were lost")
        if len(sequence) > step * batch:
            raise Failure(f"{run}: step {step} has more than {batch} samples")
        if not shapes or shapes[-1] != len(parts):
            shapes.append(len(parts))
    _permutations(run, sequence, samples, int(order["seed"]))
    ranks = ", then ".join(map(str, shapes))
    skipped = _skipped(run)
    return (
        f"{run}: {last} steps of {batch} samples on {ranks} rank{'s' if shapes != [1] else ''}: "
        f"none lost, none repeated, in the order of seed {order['seed']}; "
        f"{len(sequence) / samples:.3g} epochs of {samples} samples"
        + (f"; read, but not learned from: steps {', '.join(map(str, skipped))} (guard)" if skipped else "")
    )


def _permutations(run: Path, sequence: list[int], samples: int, seed: int) -> None:
    """Each epoch holds no sample twice (a whole one therefore all), and is the permutation of the seed."""
    from jobs.data.shards import Order  # numpy, not before the ledger is whole

    for epoch, start in enumerate(range(0, len(sequence), samples)):
        part = sequence[start : start + samples]
        if len(set(part)) != len(part) or not all(0 <= number < samples for number in part):
            raise Failure(f"{run}: epoch {epoch}: a sample was trained on twice, or is none of {samples}")
        if part != Order(samples, seed).between(start, start + len(part)):
            raise Failure(f"{run}: epoch {epoch}: not in the order of seed {seed}")


def _last_step(run: Path, by_step: dict[int, list[Record]]) -> int:
    """The last step of the record, which the ledger must reach; steps of a start that was killed may be beyond."""
    path = run / "metrics.jsonl"
    lines = metrics.read(path) if path.exists() else []
    last = int(lines[-1]["step"]) if lines else max(by_step, default=0)
    if last and last not in by_step:
        raise Failure(f"{run}: metrics.jsonl has step {last}, the ledger does not")
    return last


def _skipped(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    return [line["step"] for line in metrics.read(path) if line.get("skipped")] if path.exists() else []


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.data.samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, nargs="+", help="folder of a run")
    try:
        for run in parser.parse_args(arguments).run:
            print(prove(run))
    except (Mistake, Failure) as error:
        return told(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
