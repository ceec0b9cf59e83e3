"""What a person sees while a long command works: one line per step, with its time.

    lab: 1 login + 2 compute (h100-sxm-8x, GPUs simulated), Slurm, on this machine
      host      Docker 26.1.5 started                                       4.1 s
      images    base · stack-cuda13 · node                                142.0 s

On a terminal the running step is shown live with what it is doing; elsewhere only finished steps are printed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

NAME, TEXT = 11, 61  # columns of a step's name and of what happened in it


class Plain(Console):
    """A console that shows words as they are: people write brackets and colons into job names and reasons.

    rich would take them for its markup and its emoji; what a terminal would obey is shown as a mark.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


def printable(text: str) -> str:
    """`text` without what moves the cursor or changes the screen; line ends stay."""
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)


console = Plain(soft_wrap=True)


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
            self._status.update(Text(printable(f"{f'{self.name} ':<{NAME}}{text}")))

    def did(self, text: str, *, changed: bool = True) -> None:
        """Set the text of the finished line. `changed=False`: nothing had to be done."""
        self.text = text
        self.changed = changed


@contextmanager
def step(name: str) -> Iterator[Step]:
    """A step of a command: its line is printed when the block ends, marked when it failed."""
    status = console.status(Text(f"{f'{name} ':<{NAME}}")) if console.is_terminal else None
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
        console.print(f"  {f'{name} ':<{NAME}}{line:<{TEXT}}{this.seconds:8.1f} s", style=style)
