"""Programs of a scheduler, run for what they print."""

import subprocess
from collections.abc import Sequence

from jobs.cli.errors import Failure


def output(words: Sequence[str], *, stdin: str | None = None) -> str:
    """What a command prints. Raises Failure with what it says when it fails, or is not there."""
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failure(f"{words[0]}: no such program on PATH") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise Failure(f"{words[0]}: {said}" if not said.startswith(words[0]) else said)
    return done.stdout
