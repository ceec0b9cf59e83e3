"""Every command in the pages of Kubernetes works as it is written there, on the cluster of these tests."""

import pytest

from infra.base.paths import CHECKOUT
from infra.base.process import output
from tests import docs
from tests.kind.conftest import Trial

TESTED = {"real": ["Kubernetes"]}

pytestmark = pytest.mark.more

PAGES = [page for page in docs.pages(CHECKOUT) if page.name in docs.ON_KIND]


def untracked() -> set[str]:
    return set(output(["git", "-C", CHECKOUT, "ls-files", "--others", "--exclude-standard"]).splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_and_leave_nothing_behind(kind: Trial, page: docs.Page) -> None:
    before = untracked()
    env = {key: value for key, value in kind.env.items() if key != "KUBECONFIG"}
    failed = docs.run(docs.about(page, kind.file.relative_to(CHECKOUT), "kind"), CHECKOUT, env, 1800)
    assert failed is None, str(failed)
    assert untracked() <= before, "files that the page should remove, or write to runs/ or build/"
