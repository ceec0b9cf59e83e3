"""The images of this checkout, built if they are not there: `python -m infra images build`."""

import pytest

from infra import images
from infra.images import Target
from infra.progress import Step


@pytest.fixture(scope="session")
def built() -> dict[str, Target]:
    """Every target by name; built are the default ones and the node of a kind cluster."""
    images.build_all((*images.DEFAULT, "kind-node"), Step("images", None))
    return images.targets()
