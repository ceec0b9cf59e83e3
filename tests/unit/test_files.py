"""A file is written whole or not at all, and has its mode whatever the person's umask is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.base import files
from infra.base.errors import Failure
from infra.model.load import load_cluster
from infra.places.kind.done import Done as KindDone
from infra.places.site import applied, release, replace, unfinished
from infra.places.site.site import Site
from infra.proof.prove import Done
from infra.render import write


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


BROKEN = {
    "half written": b'{"suite": "trixie", "to": "for',
    "empty": b"",
    "another type": b"[1, 2]",
    "not text": b"\xff\xfe",
}


def site(folder: Path) -> Site:
    found = Site(load_cluster(Path("clusters/site.yaml")))
    object.__setattr__(found, "folder", folder)
    return found


READERS: dict[str, Callable[[Path], object]] = {
    "state.json": Done.load,
    "kind-state.json": KindDone.load,
    "slurm.json": lambda folder: release.Record.load(site(folder)),
    "applied.json": lambda folder: applied.Applied.load(site(folder)),
    "replace.json": lambda folder: replace._begun(site(folder), "gpu-1"),
    "unfinished.json": unfinished.load,
    "machines.json": lambda folder: site(folder).outputs,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("how", BROKEN)
def test_a_note_that_cannot_be_read_is_a_failure_that_names_it(tmp_path: Path, name: str, how: str) -> None:
    (tmp_path / name).write_bytes(BROKEN[how])
    with pytest.raises(Failure) as failure:
        READERS[name](tmp_path)
    assert str(failure.value).startswith(
        f"{tmp_path / name}: what was done so far is noted there and cannot be"
    )
    assert "\n" not in str(failure.value)


def test_a_note_that_is_missing_says_that_nothing_was_done(tmp_path: Path) -> None:
    assert Done.load(tmp_path) == Done()
    assert KindDone.load(tmp_path) == KindDone()
    assert unfinished.load(tmp_path) == {}
    assert replace._begun(site(tmp_path), "gpu-1") is None
    assert applied.Applied.load(site(tmp_path)).files == {}
    assert release.Record.load(site(tmp_path)).to is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"verfied": true}', "it says 'verfied', which this version of Slipway does not know"),
        ('{"verified": "yes"}', 'verified is "yes", of the wrong type'),
    ],
)
def test_a_note_of_another_version_is_not_guessed_at(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(Failure, match=why):
        Done.load(tmp_path)


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    done = KindDone(applied="a", verified=True, services=["kueue"], created="b")
    done.save(tmp_path)
    assert KindDone.load(tmp_path) == done


def test_what_a_umask_has_hidden_is_readable_again(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    before = os.umask(0o077)
    try:
        (folder / "model").mkdir(parents=True)
        (folder / "model/gpt.py").touch()
        (folder / "run.sh").touch(0o755)
    finally:
        os.umask(before)
    (folder / "away").symlink_to("/nonexistent")
    files.readable(folder)
    modes = {path.name: path.lstat().st_mode & 0o777 for path in folder.rglob("*") if not path.is_symlink()}
    assert modes == {"model": 0o755, "gpt.py": 0o644, "run.sh": 0o755}
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("broken", [b"\xff\xfe", None])
def test_a_list_of_rendered_files_that_cannot_be_read_is_a_failure(
    tmp_path: Path, broken: bytes | None
) -> None:
    manifest = tmp_path / ".rendered"
    manifest.mkdir() if broken is None else manifest.write_bytes(broken)
    with pytest.raises(
        Failure, match=f"^{manifest}: what was rendered before is noted there and cannot be read"
    ):
        write({"a": "b"}, tmp_path)
    assert not (tmp_path / "a").exists()
