"""The loader gives each step its own rows, has read the next ones meanwhile, and says when it cannot."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.data import shards
from jobs.data.loader import Batches

TESTED = {"real": ["training on one node"]}

CPU = torch.device("cpu")


@pytest.fixture
def split(corpus: Path) -> shards.Split:
    return shards.Split(next(corpus.glob("stdlib-*")), "validation", 32)


@pytest.mark.parametrize("part", [0, 1])
def test_each_step_has_the_rows_that_its_order_says(split: shards.Split, part: int) -> None:
    order = shards.Order(len(split), seed=3)
    batches = Batches(split, order, 6, 5, part=part, parts=2, device=CPU)
    for step in range(5, 9):
        batch = batches.next()
        assert batch.numbers == order.batch(step, 6, rank=part, ranks=2)
        assert batch.rows.dtype == torch.int64
        assert np.array_equal(batch.rows.numpy(), split.windows(batch.numbers))
    batches.close()


class Slow:
    """A split that notes what is read, and fails from the third time on."""

    def __init__(self) -> None:
        self.read, self.more = 0, threading.Semaphore(0)

    def windows(self, numbers: Sequence[int]) -> Any:
        self.read += 1
        self.more.release()
        if self.read > 2:
            raise OSError("the disk is gone")
        return np.zeros((len(numbers), 33), dtype=np.uint8)


def test_the_next_step_is_read_before_it_is_asked_for_and_an_error_is_its_step_s() -> None:
    slow: Any = Slow()
    batches = Batches(slow, shards.Order(100, seed=1), 4, 0, part=0, parts=1, device=CPU)
    batches.next()
    for _ in range(2):  # the first step's rows and, unasked, the second's
        assert slow.more.acquire(timeout=60)
    batches.next()
    with pytest.raises(OSError, match="the disk is gone"):
        batches.next()
    batches.close()
