"""Every command in the documentation works as it is written there."""

import pytest

from infra.base.paths import CHECKOUT
from tests import docs
from tests.lab.conftest import Lab

TESTED = {"real": ["place lab"]}

ELSEWHERE = (*docs.ON_MACHINES, *docs.ON_KIND)
LONG = [  # from half a minute to two
    f"docs/{name}.md" for name in ("launchers", "parameter-server", "preemption", "what-a-run-costs")
]
PAGES = [
    pytest.param(page, id=page.name, marks=[pytest.mark.more] if page.name in LONG else [])
    for page in docs.pages(CHECKOUT)
    if page.runnable() and page.name not in ELSEWHERE
]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_and_leave_nothing_behind(lab: Lab, page: docs.Page) -> None:
    docs.prove(page, lab.env)
