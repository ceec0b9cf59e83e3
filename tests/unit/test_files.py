"""A file is written whole or not at all, and has its mode whatever the person's umask is."""

import os
from pathlib import Path

import pytest

from infra.base import files


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755])
def test_the_mode_is_the_one_that_was_asked_for(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        files.put(tmp_path / "file", "x", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_write_that_fails_leaves_what_was_there_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put(tmp_path / "file", "old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        files.put(tmp_path / "file", b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_nothing_is_written_where_nothing_differs(tmp_path: Path) -> None:
    assert files.differs(tmp_path / "file", "x", 0o600)
    before = (tmp_path / "file").stat().st_ino
    assert not files.differs(tmp_path / "file", b"x", 0o600)
    assert (tmp_path / "file").stat().st_ino == before
    assert files.differs(tmp_path / "file", "x", 0o644)
