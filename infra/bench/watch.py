"""What happens to objects of a cluster, with the time at which we heard of it.

The API server's own times are whole seconds. A watch tells of every change within milliseconds.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infra.base.process import start
from infra.places.kind.cluster import Kind, kubectl

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta1/namespaces/{}/workloads"
PODS = "/api/v1/namespaces/{}/pods"


@dataclass(frozen=True)
class Event:
    """A change: `heard` in Unix seconds; `what` is ADDED, MODIFIED or DELETED."""

    heard: float
    what: str
    object: dict[str, Any]


class Watch:
    """Events of one kind in one namespace, from when the watch began."""

    def __init__(self) -> None:
        self._lines: list[tuple[float, str]] = []
        self._read: list[Event] = []

    def hear(self, line: str) -> None:
        self._lines.append((time.time(), line))

    def events(self) -> list[Event]:
        """All events so far."""
        for heard, line in self._lines[len(self._read) :]:
            event = json.loads(line)
            self._read.append(Event(heard, event["type"], event["object"]))
        return self._read


@contextmanager
def watching(kind: Kind, path: str, namespace: str) -> Iterator[Watch]:
    """Watch for as long as the block takes; what is there already comes first, as ADDED."""
    words = [str(kubectl()), "get", "--raw", f"{path.format(namespace)}?watch=true"]
    watch = Watch()
    with start(words, env=kind.environment, stdout=subprocess.PIPE, text=True) as process:

        def listen() -> None:
            assert process.stdout
            for line in process.stdout:
                watch.hear(line)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            process.terminate()
            thread.join()
