"""Writing a file so that no one ever reads half of it."""

from pathlib import Path


def put(path: Path, text: str) -> None:
    """Make `path` hold `text`, in one step: a run that is cut short leaves what was there before."""
    part = path.with_name(f".{path.name}")
    part.write_text(text)
    part.replace(path)
