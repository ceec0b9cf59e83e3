"""Releases of Slurm: which step may be taken, and what is rendered for which."""

import re
from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import Failure, Mistake
from infra.model import slurmrelease
from infra.places.site import release
from infra.places.site.site import Site
from infra.render import render
from tests.checkout import checkout, small_cluster
from tests.unit.test_render import load

DOCKER: dict[str, Any] = {"place": "docker", "services": {"hardware": "lab-cpu", "login": "login"}}


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("24.11", "26.05", True),  # as its release notes say
        ("25.11", "26.05", True),
        ("24.05", "26.05", False),
        ("22.05", "26.05", False),
        ("23.02", "24.11", True),
        ("22.05", "24.11", False),
        ("22.05", "23.11", True),  # two releases, as it was then
        ("22.05", "24.05", False),
        ("24.11", "29.05", False),
    ],
)
def test_only_steps_that_slurm_supports_are_taken(before: str, after: str, allowed: bool) -> None:
    assert (slurmrelease.refusal(before, after) == "") is allowed


@pytest.mark.parametrize("text", ["24.11.5-4+deb13u1", "slurm-wlm 24.11.5", "24.11"])
def test_a_release_is_read_from_what_programs_and_packages_say(text: str) -> None:
    assert slurmrelease.of(text) == "24.11"


@pytest.mark.parametrize(("suite", "timeout"), [(None, False), ("trixie", False), ("forky", True)])
def test_a_setting_that_only_the_newer_slurm_knows_is_rendered_for_it_alone(
    tmp_path: Path, suite: str | None, timeout: bool
) -> None:
    cluster = load(checkout(tmp_path), small_cluster(**DOCKER, software={"slurm_suite": suite}))
    conf = render(cluster)["slurm/slurm.conf"]
    assert ("HealthCheckTimeout=" in conf) is timeout


def test_a_suite_whose_slurm_is_not_known_is_a_mistake(tmp_path: Path) -> None:
    cluster = load(checkout(tmp_path), small_cluster(**DOCKER, software={"slurm_suite": "buster"}))
    with pytest.raises(Mistake, match=r"clusters/small.yaml: software.slurm_suite: 'buster'; known are"):
        slurmrelease.release(cluster)


def site(folder: Path, monkeypatch: pytest.MonkeyPatch, **record: Any) -> Any:
    """A cluster of machines whose file asks for forky, with what is known of it in a folder of the test."""
    cluster = load(checkout(folder), small_cluster(**DOCKER, software={"slurm_suite": "forky"}))
    monkeypatch.setattr("infra.base.paths.build", lambda name: folder / "build" / name)
    found = Site(cluster)
    found.folder.mkdir(parents=True)
    found.file.write_text('{"machines": []}')
    release.Record(**record).save(found)
    return found


def test_cluster_up_keeps_the_slurm_that_runs_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = site(tmp_path, monkeypatch, suite="trixie")
    assert asked.cluster.spec.software.slurm_suite == "forky"
    kept = release.held(asked.cluster)
    assert kept.spec.software.slurm_suite is None
    (line,) = capsys.readouterr().out.splitlines()
    assert re.search(r"stays as it is: 24.11 \(trixie\) -> 26.05 \(forky\): make upgrade CLUSTER=", line)
    assert release.running(asked.cluster)[1] == release.pending(asked) != []


def test_with_the_slurm_that_is_asked_for_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = site(tmp_path, monkeypatch, suite="forky")
    assert release.held(asked.cluster) is asked.cluster
    assert release.pending(asked) == []
    assert capsys.readouterr().out == ""


def test_nothing_else_touches_a_cluster_in_the_middle_of_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = site(tmp_path, monkeypatch, suite="trixie", to="forky", done=["database"])
    with pytest.raises(Failure, match="was interrupted; go on: make upgrade CLUSTER="):
        release.held(asked.cluster)
