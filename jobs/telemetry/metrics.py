"""What a run tells while it runs: `metrics.jsonl`, a line for each step, and a progress line now and then.

Losses are written with all their digits, so that two files can be compared bit by bit. A run that is resumed
first takes out the steps after its checkpoint (and a line that was cut off): each step is there once. They move to
`discarded.jsonl`: they are what the interruption cost.
"""

import json
import math
import os
import resource
from pathlib import Path
from typing import Any

from jobs.cli import files
from jobs.cli.errors import Failure


class Metrics:
    """The file `metrics.jsonl` of a run, open for the steps after `step`."""

    def __init__(self, path: Path, step: int) -> None:
        lines = read(path)
        kept = [line for line in lines if line["step"] <= step]
        if len(kept) < len(lines):  # before the others are replaced: told twice is better than lost
            with path.with_name("discarded.jsonl").open("a") as lost:
                lost.writelines(json.dumps(line) + "\n" for line in lines[len(kept) :])
        files.put(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.path = path
        self._file = path.open("a", buffering=1)

    def write(self, **line: Any) -> None:
        """Add a line. Raises Failure when the disk takes no more: a run without a record is worth nothing."""
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise Failure(f"{self.path}: {error.strerror}; make room and submit the job again") from error

    def sync(self) -> None:
        """Make all lines last. Before a checkpoint, so that each step in the weights is in the record."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise Failure(f"{self.path}: {error.strerror}; make room and submit the job again") from error


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; none without one; a last one that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    whole = []
    for number, line in enumerate(lines):
        try:
            whole.append(json.loads(line))
        except ValueError:
            if number != len(lines) - 1:
                raise
    return whole


def memory_mib() -> float:
    """The most memory that this process has held (resident), in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def progress(line: dict[str, Any], steps: int, allreduce_share: float | None = None) -> str:
    """A line of `metrics.jsonl` as a person reads it, with the newest share that was measured."""
    shares = [("all-reduce", allreduce_share), ("MFU", line.get("mfu"))]
    return (
        f"step {line['step']:>4}/{steps}  loss {line['loss']:.3f}  {line['loss'] / math.log(2):.2f} bits/byte"
        f"  {short(line['tokens_per_s'])} tok/s  data {100 * line['data_s'] / line['step_s']:.0f} %"
        + "".join(f"  {name} {100 * share:.0f} %" for name, share in shares if share is not None)
    )


def short(number: float) -> str:
    """12345 as 12.3k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
