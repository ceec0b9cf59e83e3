"""What people call their jobs and runs stands in every page and table as they wrote it, and is no markup there."""

import html.parser
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.tools import compare, ledger, replay, report
from jobs.tools.record import Record, find, names
from tests import madeup

ODD = [
    "lr=0.1|bs=32",
    "run [/data] x",
    "[bold]",
    'it\'s "it"',
    "<script>alert(1)</script>",
    "a\tb",
    "a\nb",
    "&amp;",
    "%j $HOME",
]
WORDS = st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=20)).map(
    lambda text: text.replace("\0", "")
)


class Page(html.parser.HTMLParser):
    """A page's text, and the names of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.elements = "", set[str]()
        self.feed(text)
        self.close()

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The elements of a page whose words are harmless."""
    folder = madeup.interrupted_once(tmp_path_factory.mktemp("runs") / "plain")
    return Page(report.page(Record(folder))).elements | Page(compare.page([Record(folder)] * 2)).elements


@given(name=WORDS.filter(bool))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_whatever_a_job_is_called_it_has_a_row_and_a_page(
    tmp_path_factory: pytest.TempPathFactory, plain: set[str], name: str
) -> None:
    folder = madeup.interrupted_once(
        tmp_path_factory.mktemp("runs") / "17", launcher={"SLURM_JOB_NAME": name, "SLURM_NNODES": "2"}
    )
    record = Record(folder)
    table = ledger.table([ledger.row(record, [])]).splitlines()
    assert len(table) >= 2 and table[1].startswith("17")
    if name.isprintable():
        assert name.strip() in table[1]
    for text in (report.page(record), compare.page([record, record])):
        assert Page(text).elements <= plain
    assert shlex.split(replay.sbatch(record, Path("runs/17-replay")))[0] == "sbatch"


@pytest.mark.parametrize("name", ODD)
def test_whatever_a_run_is_called_it_is_found_and_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: set[str],
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    name = name.replace("/", "-")
    for each in (name, "other"):
        madeup.interrupted_once(tmp_path / "runs" / each)
    assert set(names()) == {name, "other"}
    page = Page(report.page(find(name)))
    assert f"Run {name}" in page.words and page.elements <= plain
    both = Page(compare.page([find(name), find("other")]))
    assert name in both.words and both.elements <= plain
    assert ledger.main([]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len([row for row in rows if "  completed  10/10 " in row]) == 2
