"""Every command in the pages of machines works as it is written there, on the machines of these tests."""

import pytest

from infra.base.paths import CHECKOUT
from tests import docs
from tests.machines.conftest import Machines

TESTED = {"real": ["place docker"]}

pytestmark = pytest.mark.more

PAGES = [page for page in docs.pages(CHECKOUT) if page.name in docs.ON_MACHINES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_and_leave_nothing_behind(site: Machines, page: docs.Page) -> None:
    about_site = docs.about(page, site.file.relative_to(CHECKOUT))
    docs.prove(about_site, site.env, 1800)
