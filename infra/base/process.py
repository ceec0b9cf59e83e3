"""Running other programs: output goes to a log, a failure is one line that names it."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.base.errors import Failure


def output(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """What `command` prints, without the last newline. Raises Failure with its last line of error."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Failure(f"{command[0]} failed ({done.returncode}): {lines[-1] if lines else 'no message'}")
    return done.stdout.rstrip("\n")


def succeeds(command: Sequence[str | Path]) -> bool:
    """Whether `command` is there and exits with 0. What it prints is dropped."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | None = subprocess.DEVNULL,
) -> None:
    """Run `command` with everything that it prints appended to `log`.

    Raises Failure with the command's name, its last line and the log's path.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ {' '.join(str(word) for word in command)}\n".encode())
        file.flush()
        done = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=stdin,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise Failure(f"{command[0]} failed ({done.returncode}): {lines[-1].strip()}\n  log: {log}")
