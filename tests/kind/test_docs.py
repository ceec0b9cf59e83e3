"""Every command in the pages of Kubernetes works as it is written there, on the cluster of these tests."""

import pytest

from infra.base.paths import CHECKOUT
from tests import docs
from tests.kind.conftest import Trial

TESTED = {"real": ["Kubernetes"]}

pytestmark = pytest.mark.more

PAGES = [page for page in docs.pages(CHECKOUT) if page.name in docs.ON_KIND]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_and_leave_nothing_behind(kind: Trial, page: docs.Page) -> None:
    env = {key: value for key, value in kind.env.items() if key != "KUBECONFIG"}
    docs.prove(docs.about(page, kind.file.relative_to(CHECKOUT), "kind"), env, 1800)
