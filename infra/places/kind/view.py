"""What a cluster has, kept up to date by watches: waiting for something is waiting for its change."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.base.wait import settled
from infra.places.kind.objects import Expired, NotYet, Object, Resource, Unanswered

if TYPE_CHECKING:
    from infra.places.kind.api import Api

AGAIN_S = 0.5  # until a watch that broke is begun again
LOOK_S = 5  # between two looks when nothing changes: what else is looked at may have


class View:
    """Objects of some kinds, as a watch of each keeps them: what the cluster has, without asking again.

    For as long as a `with` block takes. An API server that goes away and comes back is watched again.
    """

    def __init__(
        self, api: "Api", *kinds: Resource, namespace: str | None = None, selector: str = ""
    ) -> None:
        self._api, self._kinds, self._where = api, kinds, (namespace, selector)
        self._objects: dict[Resource, dict[str, Object]] = {}
        self._failed: dict[Resource, Failure] = {}
        self._watches: dict[Resource, Any] = {}
        self._changed = threading.Condition()
        self._number = self._seen = 0  # of changes
        self._ended = False

    def __enter__(self) -> "View":
        for kind in self._kinds:
            since = self._look(kind)
            threading.Thread(target=self._keep, args=(kind, since), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for watch in list(self._watches.values()):
            watch.stop()  # one that is just being begun ends with its request, half a minute later

    def of(self, kind: Resource) -> list[Object]:
        """Its objects. Raises Unanswered or NotYet as long as they cannot be had."""
        with self._changed:
            if kind in self._failed:
                raise type(self._failed[kind])(str(self._failed[kind]))
            return list(self._objects[kind].values())

    def until(
        self,
        look: Callable[[], str],
        timeout_s: float,
        *,
        what: str = "the cluster",
        step: Step | None = None,
    ) -> float:
        """Wait until `look` finds nothing to wait for any more (wait.settled); it looks again after every change.

        An API server that does not answer for a while is waited for as well. Raises Failure with the last words.
        """

        def looked() -> str:
            self._seen = self._number
            try:
                return look()
            except (Unanswered, NotYet) as failure:
                return str(failure)

        return settled(
            looked,
            timeout_s,
            every_s=LOOK_S,
            late=lambda waits: f"still waiting for {what} after {timeout_s:.0f} s: {waits}",
            step=step,
            pause=self.wait,
        )

    def wait(self, timeout_s: float) -> None:
        """Until something has changed since the last look, for so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._number != self._seen, timeout=timeout_s)
            self._seen = self._number

    def _look(self, kind: Resource) -> str | None:
        """All objects anew; the version that changes go on from."""
        try:
            items, since = self._api.listed(kind, *self._where)
        except Failure as failure:
            with self._tell():
                self._failed[kind] = failure
            return None
        with self._tell():
            self._failed.pop(kind, None)
            self._objects[kind] = {each["metadata"]["uid"]: each for each in items}
        return since

    def _keep(self, kind: Resource, since: str | None) -> None:
        namespace, selector = self._where
        while not self._ended:
            if since is None:
                time.sleep(AGAIN_S)
                since = self._look(kind)
                continue
            watch = self._watches[kind] = self._api.watch()
            try:
                for change, each in self._api.changes(
                    kind, since, namespace=namespace, selector=selector, watch=watch
                ):
                    if self._ended:
                        return
                    since = each["metadata"]["resourceVersion"]
                    self._note(kind, change, each)
            except Expired:
                since = self._look(kind)
            except Failure as failure:
                since = None
                with self._tell():
                    self._failed[kind] = failure

    def _note(self, kind: Resource, change: str, each: Object) -> None:
        if change == "BOOKMARK":
            return
        with self._tell():
            if change == "DELETED":
                self._objects[kind].pop(each["metadata"]["uid"], None)
            else:
                self._objects[kind][each["metadata"]["uid"]] = each

    @contextmanager
    def _tell(self) -> Iterator[None]:
        with self._changed:
            yield
            self._number += 1
            self._changed.notify_all()


def gone(
    api: "Api",
    kind: Resource,
    namespace: str | None = None,
    *,
    timeout_s: float,
    names: Collection[str] = (),
    selector: str = "",
) -> None:
    """Wait until there is none of these names, or of any name, any more. Raises Failure when there still is."""
    with View(api, kind, namespace=namespace, selector=selector) as seen:

        def left() -> str:
            there = [str(each["metadata"]["name"]) for each in seen.of(kind)]
            return ", ".join(each for each in there if not names or each in names)

        seen.until(left, timeout_s, what=f"the end of {kind.name}")
