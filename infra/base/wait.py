"""Waiting for something, once and for all: asked again and again until it is so, or until the time is over."""

import time
from collections.abc import Callable

from infra.base.errors import Failure
from infra.base.progress import Step


def until(what: str, true: Callable[[], object], timeout_s: float = 180, every_s: float = 0.5) -> float:
    """Wait until `true()`; returns the seconds that took. Raises Failure naming `what` when it never is."""
    return settled(
        lambda: "" if true() else what,
        timeout_s,
        every_s=every_s,
        late=lambda what: f"still waiting for {what} after {timeout_s:.0f} s",
    )


def settled(
    look: Callable[[], str],
    timeout_s: float,
    *,
    every_s: float = 0.5,
    late: Callable[[str], str] | None = None,
    step: Step | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> float:
    """Wait until `look()` finds nothing to wait for any more; returns the seconds that took.

    `look` says what it still waits for, which `step` shows. When the time is over, Failure is raised with what
    `late` makes of its last words. `look` may raise as well, for what no waiting mends. `pause` waits for so many
    seconds at most, and for less where something tells it that there is a reason to look again.
    """
    start = time.monotonic()
    while waits := look():
        if step:
            step.doing(f"waiting for {waits}")
        passed = time.monotonic() - start
        if passed > timeout_s:
            raise Failure(late(waits) if late else f"still waiting for {waits} after {timeout_s:.0f} s")
        pause(min(every_s, max(0.0, timeout_s - passed) + 0.01))
    return time.monotonic() - start
