"""The images of this checkout, built if they are not there: `python -m infra images build`."""

import pytest

from infra import images
from infra.images import Target
from infra.progress import Step


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> dict[str, Target]:
    """Every target by name; built are the default ones, and the node of a kind cluster when a test is about it."""
    kind = any(item.get_closest_marker("kind") for item in request.session.items)
    images.build_all((*images.DEFAULT, *(["kind-node"] if kind else [])), Step("images", None))
    return images.targets()
