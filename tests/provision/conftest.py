"""What the tests of the clouds start from. Pulumi's SDKs come with `infra/bootstrap --provision`."""

from pathlib import Path

import pytest

from tests.checkout import checkout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path)
