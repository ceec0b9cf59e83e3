"""The rows of each step, one step ahead: while a step is computed, a thread reads those of the next one.

On a GPU they wait in pinned memory, so that the copy to the card runs beside its work.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jobs.data.shards import Order, Split


@dataclass(frozen=True)
class Batch:
    """A rank's part of a step's global batch."""

    numbers: list[int]  # of its samples
    rows: Tensor  # (samples, context + 1) on the rank's device, int64
    waited_s: float  # for the disk


class Batches:
    """The batches of one rank from `step` on; steps count from 0.

    `part` of `parts`: ranks that read the same samples have the same part.
    """

    def __init__(
        self, split: Split, order: Order, size: int, step: int, *, part: int, parts: int, device: torch.device
    ) -> None:
        self._split, self._device = split, device
        self._numbers: Callable[[int], list[int]] = lambda at: order.batch(at, size, rank=part, ranks=parts)
        self._step = step
        # A thread begins with the first card of the machine, and pinning would open a context on it.
        begin = {"initializer": torch.cuda.set_device, "initargs": (device,)} if device.type == "cuda" else {}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="data", **begin)
        self._ahead = self._read(step)

    def next(self) -> Batch:
        """The next step's batch. Raises what reading it raised."""
        start = time.perf_counter()
        numbers, rows = self._ahead.result()
        waited_s = time.perf_counter() - start
        self._step += 1
        self._ahead = self._read(self._step)
        return Batch(numbers, rows.to(self._device, non_blocking=True).long(), waited_s)  # bytes travel

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> "Future[tuple[list[int], Tensor]]":
        return self._reader.submit(self._rows, step)

    def _rows(self, step: int) -> tuple[list[int], Any]:
        numbers = self._numbers(step)
        rows = torch.from_numpy(self._split.windows(numbers))
        return numbers, rows.pin_memory() if self._device.type == "cuda" else rows.long()
