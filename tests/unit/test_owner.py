"""A cluster belongs to the checkout that made it: another is refused in a line that names it, and touches nothing."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.host import engine
from infra.model.host import read_host
from infra.model.load import load_cluster
from infra.places import owner
from infra.render.compose import render

LAB = load_cluster(CHECKOUT / "clusters/lab.yaml", host=read_host())


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A second checkout."""
    (tmp_path / "second/infra").mkdir(parents=True)
    return tmp_path / "second"


def refused(there: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, *, removing: bool = False) -> str:
    monkeypatch.setattr(engine, "containers", lambda *labels: there if "compose" in labels[0] else [])
    monkeypatch.setattr(engine, "networks", lambda *labels: [])
    try:
        owner.refuse_others(LAB, removing=removing)
    except Mistake as mistake:
        return str(mistake)
    return ""


def made_by(checkout: Path) -> dict[str, Any]:
    return {"Config": {"Labels": {engine.OWNER: str(checkout)}}}


def test_another_checkout_is_named_and_nothing_is_touched(
    another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for removing in (False, True):
        said = refused([made_by(CHECKOUT), made_by(another)], monkeypatch, removing=removing)
        assert said.startswith(f"cluster 'lab' belongs to the checkout {another}: ")
        assert "\n" not in said


def test_what_was_made_before_there_was_a_label_is_known_by_composes(
    another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"Config": {"Labels": {owner.WORKING_DIR: str(another / "build/lab")}}}
    assert str(another) in refused([old], monkeypatch)


def test_our_own_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused([made_by(CHECKOUT)], monkeypatch) == ""
    assert (
        refused([{"Config": {"Labels": {owner.WORKING_DIR: str(CHECKOUT / "build/lab")}}}], monkeypatch) == ""
    )


def test_what_a_checkout_that_is_gone_left_can_be_removed_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [made_by(tmp_path / "gone")]
    assert "which is gone: first make cluster-down" in refused(there, monkeypatch)
    assert refused(there, monkeypatch, removing=True) == ""


def test_every_container_says_whose_it_is() -> None:
    text = render(LAB)["compose.yaml"]
    containers = text.count("container_name:")
    merged = text.count("    <<: *node\n")
    own = text.count("    labels:\n")  # in place of the merged one
    assert containers == merged
    assert text.count("slipway.checkout:") == 1 + own
    assert own == len(LAB.nodes)


def test_two_runs_at_once_on_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with contextlib.ExitStack() as first:
        first.enter_context(owner.working(LAB))
        with (
            pytest.raises(Failure, match=r"cluster 'lab' is being worked on by .* since"),
            owner.working(LAB),
        ):
            pass
    with owner.working(LAB):
        pass
