"""The pages about runs need nothing but themselves, say what is in the run, and escape it."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import __main__ as verbs
from jobs.tools import compare, report, svg
from jobs.tools.record import Record, find
from tests import madeup


class Page(HTMLParser):
    """Text and attributes of a page. Every element that is opened where it matters is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return madeup.interrupted_once(tmp_path / "runs/17")


def test_a_report_says_what_happened_and_loads_nothing(run: Path) -> None:
    page = Page(report.page(Record(run)))
    assert page.links == []
    assert "url(" not in report.page(Record(run))
    for words in (
        "Run 17",
        "2.50 bits per byte on validation",
        "GPUs are simulated",
        "28 %",  # goodput: 20 of 72 s
        "2.0k/s",
        "0.36 Wh",
        "restart 1",
        "12.0 (6 steps)",
        "4.0 (2)",
        "cuda13-0123456789ab",
    ):
        assert words in page.text
    assert page.tags.count("svg") == 4  # loss, speed, waits, waterfall


def test_what_was_not_measured_is_not_drawn_and_said(run: Path) -> None:
    page = Page(report.page(Record(run)))
    assert "not known here" in page.text
    assert "all-reduce that hides behind nothing" not in page.text
    lines = [line | {"mfu": 0.41, "allreduce_share": 0.12} for line in Record(run).lines]
    madeup.write(run / "metrics.jsonl", lines)
    page = Page(report.page(Record(run)))
    assert "41 %" in page.text
    assert "all-reduce that hides behind nothing" in page.text


def test_what_a_run_says_cannot_be_markup(tmp_path: Path) -> None:
    run = madeup.interrupted_once(tmp_path / "<u>", hosts=["a & <script>"], command=["<s>"])
    page = Page(report.page(Record(run)))
    assert {"u", "s", "script"}.isdisjoint(page.tags)
    assert "a & <script>" in page.text
    assert "Run <u>" in page.text


def test_a_run_that_goes_on_has_a_report(run: Path) -> None:
    for name in ("summary.json", "ends.jsonl", "environment.json"):
        (run / name).unlink()
    assert "Died at step 10 of 10." in Page(report.page(Record(run))).text
    for name in ("metrics.jsonl", "attempts.jsonl", "discarded.jsonl"):
        (run / name).unlink()
    assert "Died at step 0 of 10." in Page(report.page(Record(run))).text


def test_light_and_dark_have_their_colours(run: Path) -> None:
    text = report.page(Record(run))
    assert "prefers-color-scheme:dark" in text
    used = set(re.findall(r"var\((--\w+)\)", text))
    light, dark = (set(re.findall(r"(--\w+):", text[at:])) for at in (0, text.index("prefers-color-scheme")))
    assert used <= light
    assert used <= dark


def test_a_page_of_several_runs_shows_only_what_differs(run: Path, tmp_path: Path) -> None:
    madeup.interrupted_once(
        tmp_path / "runs/18", madeup.CONFIG.replace("seed: 1", "seed: 2"), torch="2.15.0", hosts=["n9"]
    )
    records = [find("17"), find("18")]
    assert compare.differences(records) == {"torch": ["2.14.1+cu130", "2.15.0"], "train.seed": ["1", "2"]}
    page = Page(compare.page(records))
    assert page.links == []
    assert "train.seed" in page.text
    assert "train.batch" not in page.text
    assert compare.outcomes(records)["Goodput"] == ["28 %", "28 %"]


def test_the_verbs_write_pages(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    madeup.interrupted_once(tmp_path / "runs/18")
    (tmp_path / "runs/latest").symlink_to("18")
    assert verbs.main(["report"]) == 0
    assert verbs.main(["compare", "17", "runs/18"]) == 0
    assert capsys.readouterr().out.split() == ["runs/18/report.html", "runs/compare-17-18.html"]
    assert "Runs 17, 18" in (tmp_path / "runs/compare-17-18.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "99"], "runs/99: not a run: no such folder. There are: 17"),
        (["compare", "17"], "17: one run has nothing to be compared with; name two or more"),
        (["compare", "17", "17", "--output=no/where"], "no/where: No such file or directory"),
        (["reprot"], "reprot: no such verb. Did you mean 'report'?"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert verbs.main(arguments) == 2
    assert capsys.readouterr().err.strip() == says


@pytest.mark.parametrize(
    ("least", "most", "found"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.3, 8.1, [2, 4, 6, 8, 10]),
        (-0.02, 0.07, [-0.02, 0, 0.02, 0.04, 0.06, 0.08]),
        (5, 5, [4.7, 4.8, 4.9, 5.0, 5.1, 5.2, 5.3]),
    ],
)
def test_axes_have_round_numbers(least: float, most: float, found: list[float]) -> None:
    ticks = svg.ticks(least, most)
    assert ticks[0] <= least
    assert ticks[-1] >= most
    if least != most:
        assert ticks == pytest.approx(found)


def test_a_spike_survives_thinning() -> None:
    points = [(float(x), 1000.0 if x == 7777 else 1.0) for x in range(20_000)]
    drawn = svg.chart("t", [svg.Line("a", points)], "x", "y", from_zero=True)
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn.partition('class="plot"')[2])]
    assert len(heights) <= svg.POINTS + 2
    assert min(heights) == svg.TOP


@given(st.lists(st.floats(min_value=0, max_value=10), min_size=1, max_size=12))
def test_names_of_dashed_lines_do_not_overlap_and_stay_in_the_picture(values: list[float]) -> None:
    marks = [(f"line {number}", value) for number, value in enumerate(values)]
    text = svg.chart("t", [svg.Line("a", [(0, 0.0), (1, 10.0)])], "x", "y", marks)
    found = re.findall(r'class="label" x="[\d.]+" y="([\d.]+)" text-anchor="end">line (\d+)<', text)
    places = [float(at) for at, _ in found]
    assert len(found) == len(values)
    assert all(later - earlier >= svg.LABEL - 0.2 for earlier, later in pairwise(places))
    assert all(svg.TOP <= at <= svg.HEIGHT - svg.BOTTOM + 0.1 for at in places)
    heights = [values[int(number)] for _, number in found]
    assert heights == sorted(heights, reverse=True)  # in the order of the lines


def test_names_that_have_room_stay_at_their_lines() -> None:
    assert svg.apart([20.0, 60.0, 61.0], 14, 10, 300) == [20.0, 60.0, 74.0]
    assert svg.apart([20.0, 298.0, 299.0], 14, 10, 300) == [20.0, 286.0, 300.0]


def test_a_chart_of_nothing_is_nothing() -> None:
    assert svg.chart("t", [svg.Line("a", [(1, None)]), svg.Line("b", [])], "x", "y") == ""
    assert svg.bars("t", [], "s") == ""
