"""What happens to objects of a cluster, with the time at which we heard of it.

The API server's own times are whole seconds. A watch tells of every change within milliseconds.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from infra.base.errors import Failure
from infra.places.kind.cluster import Kind
from infra.places.kind.objects import Object, Resource


@dataclass(frozen=True)
class Event:
    """A change: `heard` in Unix seconds; `what` is ADDED, MODIFIED or DELETED."""

    heard: float
    what: str
    object: Object


class Watch:
    """Events of one kind in one namespace, from when the watch began."""

    def __init__(self) -> None:
        self._heard: list[Event] = []
        self.ended: Failure | None = None

    def hear(self, what: str, each: Object) -> None:
        self._heard.append(Event(time.time(), what, each))

    def events(self) -> list[Event]:
        """All events so far. Raises what has ended the watch, which would have missed the next one."""
        if self.ended:
            raise self.ended
        return self._heard[:]


@contextmanager
def watching(kind: Kind, what: Resource, namespace: str) -> Iterator[Watch]:
    """Watch for as long as the block takes; what is there already comes first, as ADDED."""
    watch, request, done = Watch(), kind.api.watch(), threading.Event()
    there, since = kind.api.listed(what, namespace)
    for each in there:
        watch.hear("ADDED", each)

    def listen(since: str) -> None:
        try:
            while not done.is_set():
                for change, each in kind.api.changes(what, since, namespace=namespace, watch=request):
                    since = each["metadata"]["resourceVersion"]
                    if change != "BOOKMARK":
                        watch.hear(change, each)
        except Failure as failure:
            watch.ended = None if done.is_set() else failure

    threading.Thread(target=listen, args=(since,), daemon=True).start()
    try:
        yield watch
    finally:
        done.set()
        request.stop()
