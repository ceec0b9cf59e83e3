"""Writing a file so that no one ever reads half of it."""

import os
import tempfile
from pathlib import Path


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
