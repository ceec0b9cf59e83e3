"""Writing a file so that no one ever reads half of it, and reading back what earlier runs have noted."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from infra.base.errors import Failure

Noted = TypeVar("Noted")


def put(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Make `path` hold `content`, in one step: a run that is cut short leaves what was there before.

    The file has `mode` before the first byte is in it, whatever the umask of the person's shell is.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def differs(path: Path, content: str | bytes, mode: int = 0o644) -> bool:
    """As `put`, where `path` does not hold `content` yet; whether it did not."""
    wanted = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == wanted and path.stat().st_mode & 0o777 == mode:
        return False
    put(path, content, mode)
    return True


def readable(folder: Path) -> None:
    """Let every user read what is in `folder`: a checkout that was cloned with a umask of 077 is its owner's alone.

    The folders above it stay as they are. What belongs to someone else is left to them.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        wanted = mode | (0o055 if path.is_dir() or mode & 0o100 else 0o044)
        if mode != wanted:
            with suppress(PermissionError):
                path.chmod(wanted)


def state(path: Path) -> dict[str, Any] | None:
    """What an earlier run has noted in the JSON file `path`; None when there is none. Raises Failure.

    A missing file says that nothing has happened. One that cannot be read says nothing: to go on as if nothing had
    happened would, in the middle of an upgrade, begin it again.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _unreadable(path, why or "no reason given") from None
    if not isinstance(found, dict):
        raise _unreadable(path, f"an object was expected, it holds {json.dumps(found)[:40]}")
    return found


def noted(path: Path, kind: type[Noted]) -> Noted | None:
    """The same as a dataclass. Raises Failure, also for a key that it does not have: another version wrote it."""
    found = state(path)
    if found is None:
        return None
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name, value in found.items():
        if name not in known:
            raise _unreadable(path, f"it says '{name}', which this version of Slipway does not know")
        default = getattr(kind(), name)
        if default is not None and not isinstance(value, type(default)):
            raise _unreadable(path, f"{name} is {json.dumps(value)[:40]}, of the wrong type")
    return kind(**found)


def _unreadable(path: Path, why: str) -> Failure:
    return Failure(
        f"{path}: what was done so far is noted there and cannot be read ({why}); put back a copy that can be,"
        " or remove the file to begin as if nothing had been done"
    )
