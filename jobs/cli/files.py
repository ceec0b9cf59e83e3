"""Files that others read while a run goes on, and names that nobody has taken yet."""

import os
from pathlib import Path


def put(path: Path, text: str) -> None:
    """Make `path` hold `text`: the whole of it or nothing."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text)
    beside.replace(path)


def free(path: Path) -> Path:
    """This name or the first of `-2`, `-3`, ... that is not taken."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
