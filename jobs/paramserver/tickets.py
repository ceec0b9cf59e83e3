"""Who computes what next: tickets, each one part of a step's global batch, handed out in order.

A worker's clock is the step of its ticket. None is handed out more than `staleness` steps after the oldest step
that is not whole, so no worker is ever more than that ahead of another. A ticket of a worker that died goes to
the next one that asks: every part of every step is computed and counted exactly once.
"""

import heapq
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Ticket:
    """Part `part` of step `step`; both from 0."""

    step: int
    part: int


class Tickets:
    """Tickets of `parts` parts for each step from `first` on. Not safe for threads by itself."""

    def __init__(self, first: int, last: int, parts: int, staleness: int) -> None:
        """`last`: the first step that there is no ticket of, until `extend`; `staleness` below 0: no bound."""
        self.oldest, self.last, self.parts, self.staleness = first, last, parts, staleness
        self.out: dict[str, Ticket] = {}  # who works on what
        self._next = Ticket(first, 0)
        self._returned: list[Ticket] = []
        self._done: dict[int, int] = {}  # parts that are done, of steps from the oldest on

    @property
    def newest(self) -> int:
        """The first step of which nothing was handed out."""
        return self._next.step + (self._next.part > 0)

    @property
    def lead(self) -> int:
        """Steps between the worker that is ahead of all and the one that is behind all."""
        steps = [ticket.step for ticket in self.out.values()]
        return max(steps) - min(steps) if steps else 0

    def take(self, worker: str) -> Ticket | None:
        """The ticket that `worker` works on from now; None when there is none that may be started now."""
        assert worker not in self.out
        ticket = self._returned[0] if self._returned else self._next
        if ticket.step >= self.last or self._too_far(ticket):
            return None
        if self._returned:
            heapq.heappop(self._returned)
        elif ticket.part + 1 < self.parts:
            self._next = Ticket(ticket.step, ticket.part + 1)
        else:
            self._next = Ticket(ticket.step + 1, 0)
        self.out[worker] = ticket
        return ticket

    def done(self, worker: str) -> list[int]:
        """The ticket of `worker` is counted. Returns the steps that are whole by that, in order."""
        step = self.out.pop(worker).step
        self._done[step] = self._done.get(step, 0) + 1
        whole = []
        while self._done.get(self.oldest) == self.parts:
            del self._done[self.oldest]
            whole.append(self.oldest)
            self.oldest += 1
        return whole

    def lost(self, worker: str) -> Ticket | None:
        """`worker` is gone; its ticket, if it had one, goes to the next that asks."""
        ticket = self.out.pop(worker, None)
        if ticket:
            heapq.heappush(self._returned, ticket)
        return ticket

    def extend(self, last: int) -> None:
        """Hand out steps up to `last`, which is not among them; never fewer than what was handed out already."""
        self.last = max(last, self.newest)

    def _too_far(self, ticket: Ticket) -> bool:
        return 0 <= self.staleness < ticket.step - self.oldest
