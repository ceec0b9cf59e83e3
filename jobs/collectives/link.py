"""What the way between ranks carries at most, without any library: plain TCP sockets, and a copy in memory.

Both are measured by all ranks at once, because a collective keeps all of them busy at once, and in the same run
as what is held against them. The sockets take the address that gloo takes (jobs/cluster/address.py).
"""

import socket
import statistics
import threading
import time

import torch

from jobs.cluster.address import address
from jobs.parallel.ranks import Ranks

BLOCK = 1 << 20  # bytes that one call of send or receive is given


class Ring:
    """A TCP connection from every rank to the next one, the last one's to the first. Made by all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        with socket.create_server(("", 0)) as server:
            places = ranks.gathered((address(), server.getsockname()[1]))
            self._next = socket.create_connection(places[(ranks.rank + 1) % ranks.size], timeout=60)
            server.settimeout(60)
            self._previous = server.accept()[0]
        for end in (self._next, self._previous):
            end.settimeout(None)

    def all_at_once(self, size: int) -> float:
        """Bytes per second that each rank sends while it receives as many, the slowest rank's: as in a ring."""
        return self._streams(size, sends=True, receives=True)

    def one_way(self, size: int) -> float:
        """Bytes per second from rank 0 to rank 1 while nothing else moves: as from the root of a broadcast."""
        return self._streams(size, sends=self.ranks.first, receives=self.ranks.rank == 1 % self.ranks.size)

    def _streams(self, size: int, *, sends: bool, receives: bool) -> float:
        sender = threading.Thread(target=self._send, args=(size,), daemon=True)
        self.ranks.wait()
        start = time.perf_counter()
        if sends:
            sender.start()
        if receives:
            into = memoryview(bytearray(BLOCK))
            got = 0
            while got < size:
                now = self._previous.recv_into(into)
                if not now:
                    raise ConnectionError("the rank before this one closed its end of the link")
                got += now
        took = time.perf_counter() - start
        if sends:
            sender.join()
        return size / max(self.ranks.gathered(took if receives else 0.0))

    def _send(self, size: int) -> None:
        block = memoryview(bytearray(BLOCK))
        for start in range(0, size, BLOCK):
            self._next.sendall(block[: size - start])

    def close(self) -> None:
        self._next.close()
        self._previous.close()


def memcpy(ranks: Ranks, size: int, rounds: int = 3) -> float:
    """Bytes per second that each rank copies in its device's memory while all do, the slowest rank's.

    No transport between ranks of one host is faster: each byte is copied at least once.
    """
    source, target = (torch.zeros(size, dtype=torch.uint8, device=ranks.device) for _ in range(2))
    target.copy_(source)  # touches every page
    times = []
    for _ in range(rounds):
        ranks.wait()
        start = time.perf_counter()
        target.copy_(source)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return size / max(ranks.gathered(statistics.median(times)))
