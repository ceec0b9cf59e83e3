"""The command line: what it prints for people and for machines, and how fast it starts."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from infra import cli
from infra.base.paths import CHECKOUT


@pytest.fixture
def infra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """The command line in this process: words in, printed text out."""

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["infra", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        return capsys.readouterr().out

    return call


def test_help_has_examples_for_every_verb(infra) -> None:  # type: ignore[no-untyped-def]
    assert "python -m infra render clusters/lab.yaml" in infra("--help")
    for command in cli.app.registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__
        # typer fills paragraphs, so that an example may go over two lines
        assert f"python -m infra {name}" in " ".join(infra(name, "--help").split()), name


def test_help_imports_nothing_that_is_slow() -> None:
    """The reason for lazy imports; the time itself is in the next test, which a busy machine may disturb."""
    slow = "pydantic", "ruamel.yaml", "jinja2", "docker", "rich"
    code = f"import infra.cli, sys; print([name for name in {slow} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True).stdout
        == "[]\n"
    )


def test_start_up_costs_little_more_than_python_with_typer() -> None:
    """In seconds of processor time, which other work on this machine does not change."""

    def best(*words: str) -> float:
        times = []
        for _ in range(5):
            begin = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *words], cwd=CHECKOUT, capture_output=True, check=True)
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)
        return min(times)

    ours, typer = best("-m", "infra", "--help"), best("-c", "import typer.main")
    assert ours < 2 * typer


def test_check_says_what_is_right(infra) -> None:  # type: ignore[no-untyped-def]
    assert infra("check", "hardware/h100-sxm-8x.yaml") == "hardware/h100-sxm-8x.yaml: stack cuda13\n"
    assert json.loads(infra("check", "--json"))["hardware/mi300x-8x.yaml"].startswith("right, but no")


def test_show_adds_up(infra) -> None:  # type: ignore[no-untyped-def]
    shown = json.loads(infra("show", "tests/golden/clusters/mixed.yaml", "--json"))
    assert shown["total"] == {
        # two pools of two, and the three machines of the services, at the profile's price
        "nodes": 2 + 2 + 3,
        "cores": 2 * 128 + 2 * 192 + 3 * 192,
        "gpus": 16,
        "memory_gib": pytest.approx(5459 + 3 * 768, abs=1),
        "power_w": 2 * 6500 + 2 * 1100 + 3 * 1100,
        "usd_per_hour": pytest.approx(2 * 27.45 + 2 * 1.10 + 3 * 0.95),
    }
    table = infra("show", "tests/golden/clusters/mixed.yaml")
    assert "59.95 $/h" in table and "\x1b" not in table


def test_render_says_what_changed(infra, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("render", "tests/golden/clusters/big.yaml", "--output", str(tmp_path), "--json")
    first, second = json.loads(infra(*words)), json.loads(infra(*words))
    assert len(first["changed"]) == first["files"] > 10
    assert second["changed"] == []


def test_from_another_folder_a_path_means_what_the_shell_means(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        (CHECKOUT / "tests/golden/clusters/big.yaml").read_text().replace("name: big", "name: mine")
    )
    done = subprocess.run(
        [sys.executable, "-m", "infra", "check", "mine.yaml"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{mine}: 128 nodes in 1 pool\n", "")


def test_jobs_says_what_a_launcher_cannot_be_told(infra) -> None:  # type: ignore[no-untyped-def]
    shown = infra("jobs", "ddp", "--differences")
    assert "TrainJob k8s/trainjob.yaml" in shown and "time_limit_minutes" in shown
    assert infra("jobs", "ddp", "--check") == "jobs: every file is as its description says\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (
            PermissionError(13, "Permission denied", "build/lab/.rendered"),
            1,
            "build/lab/.rendered: Permission denied\n",
        ),
        (OSError(28, "No space left on device"), 1, "No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_what_the_machine_refuses_is_a_line(
    error: OSError, status: int, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "settle", lambda: None)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, capfd.readouterr().err) == (status, says)
