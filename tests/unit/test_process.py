"""Programs that we start see an environment of ours, end in time, and fail in one line."""

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.base import process
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from tests.hostile import HOSTILE


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    before, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    yield
    os.environ.clear()
    os.environ.update(before)
    os.umask(mask)
    process._persons.clear()


def seen(**more: str) -> dict[str, str]:
    """The environment of a program that is started so."""
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    found: dict[str, str] = json.loads(process.output([sys.executable, "-c", code], env=more))
    return found


def test_a_program_sees_nothing_of_a_hostile_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    found = seen()
    assert {name: found[name] for name in HOSTILE if name in found} == {"LC_ALL": "C.UTF-8"}


def test_a_program_sees_its_way_out_and_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "https_proxy": "http://proxy:3128",
        "SSL_CERT_FILE": "/ca.pem",
        "DOCKER_HOST": "tcp://there:2375",
        "AWS_PROFILE": "ours",
        "SLIPWAY_DEBIAN_MIRROR": "http://mirror",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = seen(EXTRA="asked for")
    assert given.items() <= found.items()
    assert found["EXTRA"] == "asked for"
    assert found["PATH"] == os.environ["PATH"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    )
)
def test_no_other_name_passes(shell: dict[str, str]) -> None:
    process._persons.clear()
    os.environ.clear()
    os.environ.update({"PATH": "/bin", "HOME": "/root"} | shell)
    allowed = {
        name
        for name in os.environ
        if name in process.PASSED or name.startswith(process.FAMILIES) or name in ("HOME", "LC_ALL")
    }
    assert process.environment().keys() == allowed | {"LC_ALL"}
    process.settle()  # and the same for what libraries start; the person's own is kept for what is asked by name
    assert os.environ.keys() == allowed | {"LC_ALL"}
    assert shell.items() <= process.persons().items() | {("LC_ALL", shell.get("LC_ALL", ""))} | {
        ("HOME", shell.get("HOME", ""))
    }


def test_a_home_is_found_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert seen()["HOME"] == process.home() != ""


def test_a_user_without_any_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(Failure, match=r"^HOME is not set, and user 4000000000 has no entry in /etc/passwd"):
        process.environment()


def test_what_is_written_is_readable_whatever_the_umask(tmp_path: Path) -> None:
    os.umask(0o077)
    process.settle()
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/slurm.conf").touch()
    assert (tmp_path / "slurm").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "slurm/slurm.conf").stat().st_mode & 0o777 == 0o644


def test_a_program_that_is_not_there_is_a_line() -> None:
    for call in (process.output, process.become, process.start, process.run):
        with pytest.raises(Failure, match=r"^no-such-program: not on this machine"):
            call(["no-such-program", "ps"])
    assert not process.succeeds(["no-such-program"])


def test_a_program_that_may_not_be_run_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("text")
    with pytest.raises(Failure, match=r"could not be started: Permission denied$"):
        process.output([tmp_path / "docker", "ps"])


def test_a_question_that_is_not_answered_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ANSWER_S", 0.1)
    start = time.monotonic()
    with pytest.raises(Failure, match=r"^sleep 30: no answer within 0 s$"):
        process.answer(["sleep", "30"])
    assert not process.succeeds(["sleep", "30"])
    assert time.monotonic() - start < 5


def test_what_is_not_text_is_no_traceback() -> None:
    assert process.output(["printf", r"\377\n"]) == "\N{REPLACEMENT CHARACTER}"


STARTS = {
    "subprocess": {"run", "Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "startfile", "posix_spawn", "posix_spawnp", "fork", "forkpty"},
    "pty": {"spawn", "fork"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}


def starters(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every call that starts a program, and of imports that hide one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in STARTS:
            for alias in node.names:
                if alias.name in STARTS[node.module] or alias.name.startswith(("exec", "spawn")):
                    yield node.lineno, alias.name
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in STARTS and alias.asname:
                    yield node.lineno, alias.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = node.func.value, node.func.attr
            if isinstance(owner, ast.Name) and owner.id in STARTS:
                family = owner.id == "os" and name.startswith(("exec", "spawn"))
                if name in STARTS[owner.id] or family:
                    yield node.lineno, f"{owner.id}.{name}"


def test_nothing_else_in_infra_starts_a_program() -> None:
    found = [
        f"{file.relative_to(CHECKOUT)}:{line}: {name}"
        for file in sorted((CHECKOUT / "infra").rglob("*.py"))
        if file != CHECKOUT / "infra/base/process.py"
        for line, name in starters(ast.parse(file.read_text()))
    ]
    assert not found, "by infra/base/process.py, which gives it an environment of ours"


@pytest.mark.parametrize(
    "line",
    [
        "import subprocess; subprocess.run(['docker'])",
        "import os; os.execvp('ssh', [])",
        "from subprocess import Popen",
        "import subprocess as s",
    ],
)
def test_one_that_does_would_be_found(line: str) -> None:
    assert list(starters(ast.parse(line)))


def test_the_command_line_settles_first() -> None:
    """Before any verb: what `python -m infra` starts, by whatever library, inherits from it."""
    code = """if True:
        import atexit, os, sys
        atexit.register(lambda: print(sorted(os.environ)))
        sys.argv = ["infra", "check", "--help"]
        from infra.cli import main
        main()
    """
    hostile = {name: value for name, value in HOSTILE.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | hostile, cwd=CHECKOUT, capture_output=True, text=True
    )
    last = done.stdout.strip().splitlines()[-1]
    assert not {name for name in HOSTILE if f"'{name}'" in last} - {"LC_ALL"}
