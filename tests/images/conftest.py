"""The images of this checkout, built if they are not there: `python -m infra images build`."""

import pytest

from infra import images
from infra.images import Target
from infra.progress import Step


@pytest.fixture(scope="session")
def built() -> dict[str, Target]:
    """Every default target, by name."""
    images.build_all(images.DEFAULT, Step("images", None))
    return images.targets()
