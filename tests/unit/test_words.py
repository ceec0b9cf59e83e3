"""What people write (names of jobs, reasons, descriptions) is shown as it is, and reaches no parser and no renderer."""

import ast
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.progress import Plain, printable
from infra.places.site import slurmconf
from infra.proof import run, table

WORDS = (
    "lr=0.1|bs=32",
    "run [/data] x",
    "[red]",
    "a:smile:b",
    "x JobState=COMPLETED Reason=None",
    "\u00e4\u00f6",
    "a\\b",
)
NAMES = st.text(
    st.characters(exclude_characters="\0\x1e", exclude_categories=["Cs"]), min_size=1, max_size=30
)


def shown(what: Any) -> str:
    out = io.StringIO()
    Plain(file=out, width=400).print(what)
    return out.getvalue().rstrip("\n")


@pytest.mark.parametrize("word", WORDS)
def test_words_are_shown_as_they_are(word: str) -> None:
    assert shown(word) == word
    rows = Table(box=None)
    rows.add_column("name")
    rows.add_row(word)
    assert word in shown(rows)


def test_what_a_terminal_obeys_is_shown_as_a_mark() -> None:
    assert printable("\x1b[2Jgone\r\n") == "\ufffd[2Jgone\ufffd\n"
    assert "\x1b" not in shown("\x1b]0;title\x07")


@given(NAMES)
def test_no_name_is_taken_for_markup(name: str) -> None:
    assert [line.rstrip() for line in shown(name).split("\n")] == [
        line.rstrip() for line in printable(name).rstrip("\n").split("\n")
    ]


@given(st.lists(NAMES, max_size=5))
def test_a_jobs_name_is_one_field_of_its_row(names: list[str]) -> None:
    said = "".join(
        f"{table.BEGIN}{number}|ml|PENDING|0:00|2|(Resources)|{name}\n" for number, name in enumerate(names)
    )
    assert table.parse(said) == [
        {
            "id": str(number),
            "name": name.rstrip("\n"),
            "user": "ml",
            "state": "PENDING",
            "time": "0:00",
            "nodes": "2",
            "where": "(Resources)",
        }
        for number, name in enumerate(names)
    ]


SHOWN = """JobId=2 JobName={name}
   UserId=ml(4321) GroupId=ml(4321) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   RunTime=00:00:05 TimeLimit=UNLIMITED TimeMin=N/A
   StdOut=/home/me/my runs/{name}.out
"""


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)
    .map(str.strip)
    .filter(bool)
)
def test_a_jobs_state_is_not_read_from_its_name(name: str) -> None:
    assert run.told(SHOWN.format(name=name)) == ("RUNNING", "None", f"/home/me/my runs/{name}.out")


def test_a_state_that_is_not_told_is_a_failure() -> None:
    with pytest.raises(Failure, match="no state in 'slurm_load_jobs error'"):
        run.told("slurm_load_jobs error")


def test_a_comment_on_a_node_changes_none_of_its_facts() -> None:
    conf = "NodeName=c1 Weight=1\n"
    live = "NodeName=c1 Weight=1 State=IDLE Comment=was Weight=9 Reason=disk Weight=7 [root@now]\n"
    assert slurmconf.differences(conf, "", live, "") == []
    assert slurmconf.differences(conf, "", live.replace("Weight=1", "Weight=3"), "")


def test_what_another_program_has_written_into_a_run_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/metrics.jsonl").write_text('half a line\n[1]\n{"epoch": 3}\n{"step": 1')
    there = run.Run("7", runs=tmp_path)
    assert there.metrics() == [{"epoch": 3}]
    assert run._live(there) == ""
    assert run.progress({"step": "x", "loss": None}) == ""


def test_nothing_in_infra_prints_by_another_console() -> None:
    """The one of infra/base/progress.py shows words as they are."""
    found = [
        f"{file.relative_to(CHECKOUT)}:{node.lineno}"
        for file in sorted((CHECKOUT / "infra").rglob("*.py"))
        if file != CHECKOUT / "infra/base/progress.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "rich.console")
        or (isinstance(node, ast.keyword) and node.arg == "markup")
        or (isinstance(node, ast.Attribute) and node.attr == "from_markup")
    ]
    assert not found
