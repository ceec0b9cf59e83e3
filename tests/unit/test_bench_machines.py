"""Figures of machines: what is taken from the commands' own steps, what is beside what, and where each is measured."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.base import paths
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.bench import inventory, machines, run, world
from infra.bench.figure import Result
from infra.bench.run import ALL, IN_A_WORLD, WARM, world_of
from infra.commands import bench
from infra.host import engine
from infra.model import shape
from tests.checkout import LAPTOP

SITE = (CHECKOUT / "clusters/site.yaml").read_text()
SAID = """\
  host       Docker 26.1.5                                                     0.2 s
  machines   made gpu-3                                                        2.5 s
  configure  5 machines, 98 tasks, 31 changes on 1                            21.0 s
site: up
"""


def test_the_site_is_measured_under_a_name_and_network_of_its_own() -> None:
    text = machines.renamed(SITE, 3)
    changed = set(text.splitlines()) - set(SITE.splitlines())
    assert changed == {"name: bench-site", "    count: 3", "  cidr: 10.82.0.0/24"}


def test_a_site_file_that_the_bench_does_not_know_is_told() -> None:
    with pytest.raises(Failure, match=r"clusters/site\.yaml: the bench looks for 'count: 2' once in it"):
        machines.renamed(SITE.replace("count: 2", "count: 4"), 3)


def test_phases_are_the_steps_of_the_command_and_what_is_in_none_of_them() -> None:
    phases = machines.rest(machines.phases(SAID), 25.0)
    assert phases == {"host": 0.2, "machines": 2.5, "configure": 21.0, "rest": pytest.approx(1.3)}


def test_one_of_many_stands_beside_one_of_few_and_all_beside_one_after_the_other() -> None:
    found = machines.growth_figures((3, 30), {3: 5.0, 30: 40.0}, {3: 10.0, 30: 11.0}, {3: 16.0, 30: 93.0})
    told = {figure.name.strip(): (figure.value, figure.limit, figure.limit_name) for figure in found}
    assert told["dry run for 1 of 3 machines"] == (10.0, None, "")
    assert told["dry run for 1 of 30 machines"] == (11.0, 10.0, "1 of 3")
    assert told["dry run for all of 30 machines and their controller"] == (93.0, 310.0, "31 x 1 machine")
    assert told["Pulumi: from 3 machines to 30"] == (40.0, None, "")


def test_many_small_machines_are_a_cluster_that_this_host_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "build").mkdir()
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    monkeypatch.setattr(machines, "read_host", lambda: LAPTOP)
    cluster = machines._many(30)
    assert [spec.name for spec in shape.machines(cluster)] == ["head", *(f"n-{n}" for n in range(1, 31))]


def test_figures_of_machines_never_pay_for_an_empty_cache() -> None:
    assert {world_of(name, ALL) for name in IN_A_WORLD} == {"fresh"}
    assert {world_of(name, ALL) for name in WARM} == {"shared"}
    assert {world_of(name, ["warm", "site"]) for name in ("warm", "site")} == {"shared"}
    assert world_of("growth", ALL) == "", "it holds the lock itself"


def test_a_world_is_not_opened_and_closed_in_turns() -> None:
    kinds = [world_of(name, ALL) for name in ALL]
    assert [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before] == [
        "fresh",
        "shared",
        "",
    ]


def test_one_world_is_closed_before_the_next_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def world_of_a_kind(*, fresh: bool) -> Iterator[str]:
        kind = "fresh" if fresh else "shared"
        seen.append(f"open {kind}")
        yield kind
        seen.append(f"close {kind}")

    def measured(name: str) -> Callable[..., Result]:
        def measure(*world: str) -> Result:
            seen.append(" ".join([name, *world]))
            return Result(name, "by hand", [])

        return measure

    monkeypatch.setattr(run, "world", world_of_a_kind)
    for table in (run.HERE, run.IN_A_WORLD, run.WARM):
        for name in table:
            monkeypatch.setitem(table, name, measured(name))
    names = ["render", "cold", "warm", "site", "site-grow", "growth"]
    assert [name for name, _ in run._outcomes(names, quiet=True, nodes=None)] == names
    assert seen == [
        "render",
        *("open fresh", "cold fresh", "warm fresh", "close fresh"),
        *("open shared", "site shared", "site-grow shared", "close shared"),
        "growth",
    ]


def test_machines_of_someone_else_are_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(world, "FOLDER", tmp_path)
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    monkeypatch.setattr(world, "remove_machines", removed.append)
    ours = world.MACHINES.format(world.SITE)
    monkeypatch.setattr(engine, "names", lambda kind, *labels: ["c1"] if ours in labels else [])
    with pytest.raises(Failure, match="'bench-site' run from elsewhere"), world.alone():
        pass
    assert removed == []
    (tmp_path / "checkout/build" / world.SITE / "state").mkdir(parents=True)
    with world.alone():
        assert removed == [world.SITE, world.MANY]
        with pytest.raises(Failure, match="the bench of this checkout is being worked on"), world.alone():
            pass


def test_the_cloud_of_a_thousand_nodes_is_a_right_cluster_file(tmp_path: Path) -> None:
    cluster = inventory._aws(tmp_path / "checkout", 1000)
    assert len(shape.machines(cluster)) == 1004
    assert cluster.place == "aws"


def test_the_inventory_that_ansible_reads_has_every_node(tmp_path: Path) -> None:
    folder = inventory._rendered(tmp_path / "checkout", 500)
    assert "n[1:500]" in (folder / "inventory.yaml").read_text()
    assert inventory._parse(folder) > 1000
    with pytest.raises(Failure, match="ansible failed"):
        inventory._ansible("ansible", folder, "--no-such-option")


def test_a_cluster_that_is_too_small_to_tell_is_refused() -> None:
    assert CliRunner().invoke(bench.app, ["preview", "--nodes", "10"]).exit_code == 2
