"""The images of this checkout, built if they are not there: `python -m infra images build`."""

import pytest

from infra.base.progress import Step
from infra.images import targets
from infra.images.targets import Target


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> dict[str, Target]:
    """Every target by name; built are the default ones, and the node of a kind cluster when a test is about it."""
    kind = any(item.get_closest_marker("kind") for item in request.session.items)
    targets.build_all((*targets.DEFAULT, *(["kind-node"] if kind else [])), Step("images", None))
    return targets.targets()
