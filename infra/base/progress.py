"""What a person sees while a long command works: one line per step, with its time.

    lab: 1 login + 2 compute (h100-sxm-8x, GPUs simulated), Slurm, on this machine
      host      Docker 26.1.5 started                                       4.1 s
      images    base · stack-cuda13 · node                                142.0 s

On a terminal the running step is shown live with what it is doing; elsewhere only finished steps are printed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

NAME, TEXT = 11, 61  # columns of a step's name and of what happened in it

console = Console(highlight=False, soft_wrap=True)


class Step:
    """One line of progress; `doing` while it runs, `did` for what stays on the screen."""

    def __init__(self, name: str, status: Status | None) -> None:
        self.name = name
        self.text = ""
        self.changed = True
        self._status = status
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def doing(self, text: str) -> None:
        """Show what the step works on now (terminals only)."""
        self.text = text
        if self._status:
            self._status.update(f"{f'{self.name} ':<{NAME}}{text}")

    def did(self, text: str, *, changed: bool = True) -> None:
        """Set the text of the finished line. `changed=False`: nothing had to be done."""
        self.text = text
        self.changed = changed


@contextmanager
def step(name: str) -> Iterator[Step]:
    """A step of a command: its line is printed when the block ends, marked when it failed."""
    status = console.status(f"{f'{name} ':<{NAME}}") if console.is_terminal else None
    this = Step(name, status)
    if status:
        status.start()
    outcome = "failed: "
    try:
        yield this
        outcome = ""
    finally:
        if status:
            status.stop()
        style = "red" if outcome else ""
        line = f"{outcome}{this.text}"
        console.print(f"  {f'{name} ':<{NAME}}{line:<{TEXT}}{this.seconds:8.1f} s", style=style, markup=False)
