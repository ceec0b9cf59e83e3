"""Figures: how they are compared, shown and written into docs/measured.md, and how phases are taken apart."""

import json
import os
import signal
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from infra.base import paths
from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.bench import cluster, measured, stack, world
from infra.bench.figure import Figure, Result, phases_line, shown
from infra.bench.run import ALL, HERE, IN_A_WORLD, ORDER, WARM
from infra.commands import bench
from jobs.bench import figure as jobs_figure
from tests.checkout import LAPTOP

KILL = Result(
    "kill", "by hand", [Figure("node kill", 48.0, "s", 60.0, "goal")], {"detection": 15.5, "requeue": 32.5}
)
DDP = Result(
    "ddp",
    "two ranks",
    [Figure("training", 3000.0, "tokens/s", 4000.0, "1 rank"), Figure("  of it", 0.5, "s")],
)
EMPTY = """# Measured

<!-- figures -->
<!-- end of figures -->

text

<!-- methods -->
<!-- end of methods -->
end
"""
DAY = date(2026, 11, 23)


def updated(text: str, *results: Result, machine: str = "2 cores") -> str:
    return measured.updated(text, results, ["ddp", "kill"], machine, DAY)


def test_more_of_a_limit_is_better_for_times_as_for_rates() -> None:
    assert Figure("", 150.0, "s", 300.0).reached == 2
    assert Figure("", 3.0, "GB/s", 4.0).reached == 0.75
    assert Figure("", 3.0, "GB/s").reached is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.012345, "s", "0.0123 s"),
        (21.44, "s", "21.4 s"),
        (181.7, "s", "182 s"),
        (4279.6, "tokens/s", "4,280 tokens/s"),
    ],
)
def test_figures_have_the_digits_that_repeat(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_a_figure_stands_beside_its_limit() -> None:
    assert KILL.lines()[0].split() == ["node", "kill", "48", "s", "125%", "of", "goal:", "60", "s"]
    assert KILL.lines()[1:] == ["detection 15.5 s · requeue 32.5 s", "(by hand)"]
    assert KILL.facts()["figures"][0]["reached"] == 1.25
    assert json.loads(json.dumps(KILL.facts()))["command"] == "python -m infra bench kill"


def test_phases_too_short_to_show_are_left_out() -> None:
    assert phases_line({"load": 0.04, "import": 3.25}) == "import 3.2 s"


def test_lines_are_written_between_the_markers_in_order() -> None:
    text = updated(EMPTY, KILL, DDP)
    assert text.startswith("# Measured\n\n<!-- figures -->\n\n| figure |")
    assert text.endswith(
        "- `python -m infra bench kill`: by hand. Phases: detection 15.5 s · requeue 32.5 s.\n"
        "\n<!-- end of methods -->\nend\n"
    )
    rows = [line for line in text.splitlines() if "`python" in line and line.startswith("|")]
    assert rows == [
        "| training | 3,000 tokens/s | 1 rank: 4,000 tokens/s | 75% |"
        " `python -m infra bench ddp` | 2026-11-23 | 2 cores |",
        "| of it | 0.5 s |  |  | `python -m infra bench ddp` | 2026-11-23 | 2 cores |",
        "| node kill | 48 s | goal: 60 s | 125% | `python -m infra bench kill` | 2026-11-23 | 2 cores |",
    ]


def test_a_measurement_replaces_its_own_lines_and_no_others() -> None:
    before = updated(EMPTY, KILL, DDP)
    after = updated(before, replace(KILL, method="again", phases={}), machine="64 cores")
    changed = set(after.splitlines()) - set(before.splitlines())
    assert changed == {
        "| node kill | 48 s | goal: 60 s | 125% | `python -m infra bench kill` | 2026-11-23 | 64 cores |",
        "- `python -m infra bench kill`: again.",
    }
    assert len(after.splitlines()) == len(before.splitlines())
    assert updated(before) == before


@pytest.mark.parametrize("text", ["", EMPTY + EMPTY, EMPTY.replace("end of methods", "end")])
def test_a_file_without_its_markers_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "measured.md"
    file.write_text(text)
    with pytest.raises(Mistake, match=r"measured\.md: --write needs the lines '<!-- (figures|methods) -->'"):
        measured.write(file, [KILL], ORDER, LAPTOP)
    assert file.read_text() == text
    with pytest.raises(Mistake, match="No such file"):
        measured.write(tmp_path / "none.md", [], ORDER, LAPTOP)


def test_the_committed_page_takes_every_measurement() -> None:
    text = (CHECKOUT / "docs" / "measured.md").read_text()
    results = [Result(name, "method", [Figure(name, 1.0, "s")]) for name in ORDER]
    for line in [
        line for name in ORDER for line in (f"| {name} | 1 s |", f"- `python -m infra bench {name}`: method.")
    ]:
        assert line in measured.updated(text, results, ORDER, "2 cores", DAY)


def test_the_machine_has_no_name() -> None:
    assert measured.described(LAPTOP, "CPU 3000") == "8 cores, 31 GiB, CPU 3000"
    assert measured.cpu_model()


def test_phases_end_one_after_the_other() -> None:
    assert cluster.between(100.0, {"a": 101.5, "b": 101.25, "c": 103.5}) == {"a": 1.5, "b": 0.0, "c": 2.0}


def test_what_a_job_tells_is_split_where_its_own_clock_begins() -> None:
    phases = {"queue": 1.0, "start": 0.7, "agent": 3.0, "import": 2.0, "first_step": 0.5}
    agent, inside = cluster.split({"first_step_unix": 1000.0, "phases": phases})
    assert agent == 994.5
    assert inside == {"agent": 3.0, "import": 2.0, "first step": 0.5}


def test_what_cluster_up_prints_becomes_phases_that_add_up() -> None:
    said = """\
lab: 1 login + 2 compute (h100-sxm-8x, GPUs simulated), Slurm, on this machine
  host      Docker 26.1.5                                                      0.1 s
  images    node · cuda13                            6.4 GB, built            142.5 s
  cluster   c1 · c2 · db                                                       20.0 s
  verify    38 checks on 5 nodes                                                4.0 s
  job       ddp  2 nodes x 1 rank   step 300/300   2.91 bits/byte              96.4 s
From nothing to the first training step: 3 min 02 s. Report: runs/1/report.html
  tools     88 packages in .venv, 5 s
"""
    phases = cluster.steps(said, 182.0)
    assert phases == {
        "host": 0.1,
        "images": 142.5,
        "cluster": 20.0,
        "verify": 4.0,
        "tools": 5.0,
        "job": pytest.approx(10.4),
    }


def test_figures_of_the_jobs_are_found_among_their_lines() -> None:
    one = jobs_figure.Figure("step", 0.2, "s", 0.15, "bound")
    said = "saved step 1\n" + json.dumps({"benchmark": "ddp", **one.__dict__, "reached": one.reached}) + "\n"
    (figure,) = stack.figures(said)
    assert figure == Figure("step", 0.2, "s", 0.15, "bound")
    assert figure.reached == one.reached


def test_all_measures_everything_and_each_has_a_command_of_its_own() -> None:
    assert set(ALL) == set(ORDER) == {*HERE, *IN_A_WORLD, *WARM}
    assert len(ALL) == len(ORDER) == len({*HERE, *IN_A_WORLD, *WARM})
    assert {
        command.name or command.callback.__name__
        for command in bench.app.registered_commands
        if command.callback
    } == {
        "all",
        *ALL,
    }
    for command in bench.app.registered_commands:
        assert command.callback and command.callback.__doc__
        assert "Example: python -m infra bench" in command.callback.__doc__


def test_a_world_is_a_copy_of_what_git_has_or_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    (ours / "bin").mkdir(parents=True)
    for name, text in {
        ".gitignore": "build\n",
        "Makefile": "all:\n",
        "bin/slurm": "",
        "gone": "",
        "build": "",
    }.items():
        (ours / name).write_text(text)
    (ours / "bin/sbatch").symlink_to("slurm")
    subprocess.run(["git", "init", "--quiet", ours], check=True)
    subprocess.run(["git", "-C", ours, "add", "gone", "Makefile"], check=True)
    (ours / "gone").unlink()
    os.utime(ours / "Makefile", (1, 1))
    monkeypatch.setattr(paths, "CHECKOUT", ours)

    world._copy(copy)
    assert sorted(path.name for path in copy.rglob("*")) == [
        ".gitignore",
        "Makefile",
        "bin",
        "sbatch",
        "slurm",
    ]
    assert (copy / "bin/sbatch").readlink() == Path("slurm")
    assert (copy / "Makefile").stat().st_mtime == 1


def test_a_world_with_read_only_folders_is_removed_and_nothing_behind_its_links(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "world/stack").mkdir(parents=True)
    (tmp_path / "world/stack/file").touch(mode=0o444)
    (tmp_path / "world/.venv").symlink_to(tmp_path / "users")
    (tmp_path / "world/stack").chmod(0o555)
    world._remove_tree(tmp_path / "world")
    assert [path.name for path in tmp_path.iterdir()] == ["users"]


def test_an_interrupted_command_ends_with_all_its_children(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            world._run(["sh", "-c", f"sleep 1000 & echo $! > {started}; wait"], tmp_path, dict(os.environ))
    finally:
        signal.signal(signal.SIGALRM, before)
    stat = Path(f"/proc/{started.read_text().strip()}/stat")
    assert not stat.exists() or " Z " in stat.read_text()
