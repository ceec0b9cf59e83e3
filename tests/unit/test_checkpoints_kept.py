"""Which checkpoints are a run's own, in which order they come, and what is never touched. No torch."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import config
from jobs.resilience import kept

MINE = {"model.width": 128, "train.steps": 200, "data": "stdlib-0123456789ab"}
OWNER = kept.Owner(MINE, {"train.steps"})


def checkpoint(path: Path, step: int, **facts: object) -> Path:
    path.mkdir(parents=True)
    manifest = {"format": kept.FORMAT, "step": step, "files": {}, "facts": {**MINE, **facts}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def write(folder: Path, step: int, keep: int = 2) -> Path | None:
    """Commit a checkpoint as jobs/resilience/checkpoint.py does."""
    aside = kept.put(checkpoint(folder / f".{kept.name(step)}", step), folder, step, OWNER)
    kept.prune(folder, step, keep, OWNER)
    return aside


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@given(
    steps=st.lists(st.integers(1, 3_000_000), min_size=1, max_size=8, unique=True).map(sorted),
    keep=st.integers(1, 4),
    foreign=st.sets(st.integers(1, 3_000_000), max_size=3),
    strange=st.sets(
        st.one_of(
            st.text("step-0123456789.", min_size=1, max_size=12),
            st.integers(0, 3_000_000).map(lambda number: f"step-{number:06d}-best"),
            st.integers(0, 99_999).map(lambda number: f"step-{number}"),
        ),
        max_size=4,
    ),
)
def test_the_last_ones_stay_by_number_and_nothing_of_anybody_else_goes(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int],
    keep: int,
    foreign: set[int],
    strange: set[str],
) -> None:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    folder.mkdir()
    theirs = {kept.name(step) for step in foreign - set(steps)}
    for name in theirs:
        checkpoint(folder / name, int(name[5:]), **{"model.width": 64})
    others = (
        {name for name in strange if name not in (".", "..")} - theirs - {kept.name(step) for step in steps}
    )
    others = {name for name in others if kept.name(int("0" + "".join(filter(str.isdigit, name)))) != name}
    for name in others:
        (folder / name).mkdir()
    for step in steps:
        write(folder, step, keep)
        assert kept.name(step) in names(folder)  # whatever else is there, the newest stays
    mine = {kept.name(step) for step in steps[-keep:]}
    assert names(folder) == mine | theirs | others
    assert set(kept.steps(folder)) == {int(name[5:]) for name in mine | theirs}
    assert kept.steps(folder) == sorted(kept.steps(folder))


def test_from_a_million_steps_on_the_newest_is_the_one_that_stays(tmp_path: Path) -> None:
    for step in (999_950, 999_999, 1_000_000, 1_000_050):
        write(tmp_path, step)
    assert names(tmp_path) == {"step-1000000", "step-1000050"}
    assert kept.steps(tmp_path) == [1_000_000, 1_000_050]


def test_a_higher_number_that_was_refused_pushes_nothing_out(tmp_path: Path) -> None:
    checkpoint(tmp_path / "step-000200", 200, **{"model.width": 64})
    checkpoint(tmp_path / "step-000150", 150)  # the run's own, but torn: this start began before it
    write(tmp_path, 45, keep=1)
    assert names(tmp_path) == {"step-000045", "step-000150", "step-000200"}


def test_what_a_person_keeps_by_hand_is_never_counted_and_never_removed(tmp_path: Path) -> None:
    checkpoint(tmp_path / "step-000050-best", 50)
    checkpoint(tmp_path / "step-000049", 50)  # a copy: its manifest says of what
    (tmp_path / "step-000040").symlink_to("step-000050-best")
    (tmp_path / "step-notes.txt").write_text("good")
    (tmp_path / "step-000030").write_text("a file")
    (tmp_path / "step-000020").mkdir()
    before = names(tmp_path)
    for step in (60, 70, 80):
        write(tmp_path, step, keep=1)
    assert names(tmp_path) == before | {"step-000080"}
    assert kept.steps(tmp_path) == [20, 49, 80]  # these are looked into, and refused
    assert not OWNER.owns(tmp_path, 20)
    assert not OWNER.owns(tmp_path, 49)


def test_a_name_that_is_taken_by_a_foreign_one_is_freed_and_not_lost(tmp_path: Path) -> None:
    for _ in range(2):
        checkpoint(tmp_path / "step-000050", 50, **{"model.width": 64})
        write(tmp_path, 50)
        assert OWNER.owns(tmp_path, 50)
        write(tmp_path, 60, keep=1)
    assert names(tmp_path) == {"step-000050-aside", "step-000050-aside-2", "step-000060"}


def test_what_was_left_half_written_or_half_removed_goes(tmp_path: Path) -> None:
    for name in (".step-000050", ".gone-1000050", ".step-notes", "step-000040"):
        (tmp_path / name).mkdir()
    kept.clear(tmp_path)
    kept.clear(tmp_path / "none")
    assert names(tmp_path) == {".step-notes", "step-000040"}


def test_what_may_change_is_told_and_what_may_not_is_named(tmp_path: Path) -> None:
    its: dict[str, Any] = {"format": kept.FORMAT, "step": 50, "facts": {**MINE, "train.steps": 100}}
    assert OWNER.refuses(its, 50) is None
    assert OWNER.changed(its["facts"]) == {"train.steps": (100, 200)}
    its["facts"] |= {"model.width": 64, "data": "stdlib-ba9876543210"}
    assert OWNER.refuses(its, 50) == (
        "foreign: made with model.width 64, this run has 128, "
        "data 'stdlib-ba9876543210', this run has 'stdlib-0123456789ab'"
    )
    assert OWNER.refuses({**its, "format": 1}, 50) == f"format 1, this program reads {kept.FORMAT}"


def test_the_order_of_the_samples_may_not_change_and_the_rate_may() -> None:
    assert {"train.steps", "train.learning_rate"} <= config.MAY_CHANGE <= set(config.Config().trajectory())
    assert not config.MAY_CHANGE & {"train.batch", "train.seed", "model.width", "data.validation"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": 1}'])
def test_a_manifest_that_says_nothing_owns_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "step-000050").mkdir()
    (tmp_path / "step-000050/manifest.json").write_text(text)
    assert not OWNER.owns(tmp_path, 50)
    with pytest.raises(ValueError):
        kept.manifest(tmp_path / "step-000050")
