"""Worlds of ranks that stay: started once for all tests, they run one function after the other on every rank.

    def case(ranks: Ranks, width: int) -> float: ...        # a function of a module, which all ranks import

    def test_it(world: Callable[[int], World]) -> None:
        assert world(2).run(case, width=32) == [0.5, 0.5]   # what each rank returned, in order

Ranks are forked from a server that has torch imported already: a world is there in a fraction of a second, not
in ten. They meet through a file, and talk gloo. A case that fails on a rank fails the test with that rank's
traceback, and the world is thrown away: its ranks may wait for each other.
"""

import atexit
import functools
import multiprocessing
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from typing import Any

from jobs.launch.fork import ForkServer

TIMEOUT_S = 120  # of a case, and of a collective in it
CASES = 8  # of a world: groups of processes that a case has made stay, with threads that never rest


class World:
    """`size` ranks on this machine."""

    def __init__(self, size: int) -> None:
        import torch.distributed  # noqa: F401  # here too: what the server preloads is what a rank needs

        self.size = size
        self.cases = 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed", "jobs.trainable"])
        self._meet = Path(tempfile.mkdtemp(prefix="world-"))
        self._pipes, self._ranks = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_rank, args=(rank, size, self._meet / "store", theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._ranks.append(process)

    def run(self, case: Callable[..., Any], *arguments: Any, **named: Any) -> list[Any]:
        """What `case(ranks, ...)` returns on each rank. Raises AssertionError with the traceback of a rank."""
        self.cases += 1
        for pipe in self._pipes:
            pipe.send((case, arguments, named))
        found: dict[int, Any] = {}
        until = time.monotonic() + TIMEOUT_S
        while len(found) < self.size:  # whoever fails is heard first: the others may wait for it
            missing = [rank for rank in range(self.size) if rank not in found]
            ready = connection.wait([self._pipes[rank] for rank in missing], max(0, until - time.monotonic()))
            why = "" if ready else f"ranks {missing} said nothing for {TIMEOUT_S} s"
            for rank in (each for each in missing if self._pipes[each] in ready):
                good, value = self._pipes[rank].recv()
                found[rank] = value
                why = why or ("" if good else value)
            if why:
                self.close()
                raise AssertionError(why)
        return [found[rank] for rank in range(self.size)]

    @property
    def usable(self) -> bool:
        return bool(self._ranks) and self.cases < CASES

    def close(self) -> None:
        for process in self._ranks:
            process.kill()
            process.join()
        self._ranks.clear()
        shutil.rmtree(self._meet, ignore_errors=True)


class Worlds:
    """The worlds of a module of tests, by size."""

    def __init__(self) -> None:
        self._found: dict[int, World] = {}
        atexit.register(self.close)

    def __call__(self, size: int) -> World:
        for other in list(self._found):
            if other != size or not self._found[other].usable:  # one at a time: an idle one is not quite idle
                self._found.pop(other).close()
        if size not in self._found:
            self._found[size] = World(size)
        return self._found[size]

    def close(self) -> None:
        for world in self._found.values():
            world.close()
        self._found.clear()


@functools.cache
def forks() -> ForkServer:
    """What torchruns are forked from: a process that has imported all that they need, once for all tests."""
    return ForkServer.fresh(("torch.distributed.run", "torch._dynamo"))


def forked(words: Sequence[str], timeout: float = 240, **named: Any) -> "subprocess.CompletedProcess[str]":
    """As subprocess.run with its output captured, for `python -u -m MODULE` of this checkout."""
    with forks().popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def helpers() -> set[int]:
    """Process ids of what is kept beside the ranks: the servers that they are forked from, and Python's own."""
    kept = (
        forks().pid if forks.cache_info().currsize else None,
        getattr(forkserver._forkserver, "_forkserver_pid", None),
        getattr(resource_tracker._resource_tracker, "_pid", None),
    )
    return {pid for pid in kept if pid}


def _rank(rank: int, size: int, file: Path, pipe: Any) -> None:
    """A rank's life: meet the others, then run what is asked for."""
    import torch
    import torch.distributed as dist

    from jobs.parallel.ranks import Ranks

    torch.set_num_threads(1)
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=timeout)
    ranks = Ranks(
        rank=rank,
        size=size,
        local_rank=rank,
        local_size=size,
        device=torch.device("cpu"),
        simulated=False,
        background=dist.new_group(backend="gloo", timeout=timeout),
    )
    while True:
        try:
            case, arguments, named = pipe.recv()
        except EOFError:
            return
        try:
            torch.manual_seed(0)
            answer = (True, case(ranks, *arguments, **named))
        except BaseException:
            answer = (False, f"on rank {rank} of {size}:\n{traceback.format_exc()}")
        pipe.send(answer)
