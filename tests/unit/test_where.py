"""The page of what is tested where is made of the tests, and says so when a test does not."""

import pytest

from infra.base.paths import CHECKOUT
from tests import where


def test_making_the_page_again_changes_nothing() -> None:
    assert where.PAGE.read_text() == where.page(where.files()), f"run {where.COMMAND}"


def test_every_area_has_a_row_and_what_no_test_names_is_not_tested() -> None:
    file = where.read(
        "tests/lab/test_x.py", '"""It works."""\n\nTESTED = {"real": ["place lab"], "text": ["TPU"]}\n'
    )
    lines = where.page([file]).splitlines()
    rows = {line.split("**")[1]: line for line in lines if line.startswith("| **")}
    assert set(rows) == set(where.AREAS)
    link = "[lab/x](../tests/lab/test_x.py)"
    assert rows["place lab"].split(" | ")[1:] == [link, "", "", " |"]
    assert rows["TPU"].endswith(f"| {link} |")
    assert rows["place aws"].split(" | ")[1] == "**not at all**"
    assert f"| {link} | It works. |" in lines


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "tests/lab/test_x.py: no TESTED; write one"),
        ('TESTED = {"real": ["place moon"]}', "no area 'place moon'"),
        ('TESTED = {"really": ["place lab"]}', "no way 'really'; known: real, stand-in, mocks, text"),
    ],
)
def test_a_declaration_that_says_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        where.page([where.read("tests/lab/test_x.py", text)])


def test_unit_tests_need_no_declaration() -> None:
    assert where.read("tests/unit/test_x.py", "").mistakes() == []


def test_every_test_file_is_on_the_page() -> None:
    text = where.PAGE.read_text()
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        assert f"(../{path.relative_to(CHECKOUT)})" in text
