"""What Debian has fixed since an image was built is told: by the mirror's word, and in red where it has none."""

import subprocess
from collections.abc import Iterator

import pytest

from infra.host import engine
from infra.images import buildenv, updates
from infra.images.targets import Target

TESTED = {"real": ["Debian 13", "x86_64"]}

OLD = "0.1~made-up"


@pytest.fixture(scope="module")
def behind(built: dict[str, Target]) -> Iterator[str]:
    """The image `base` with a package that says to be older than it is."""
    tag, container = "slipway/behind:test", "slipway-test-behind"
    change = f"sed -i '/^Package: tzdata$/,/^$/ s/^Version: .*/Version: {OLD}/' /var/lib/dpkg/status"
    try:
        command = ["docker", "run", "--name", container, built["base"].where, "sh", "-c", change]
        subprocess.run(command, check=True, capture_output=True)
        subprocess.run(["docker", "commit", container, tag], check=True, capture_output=True)
        yield tag
    finally:
        engine.remove_container(container)
        engine.remove_image(tag)


@pytest.mark.more
def test_a_package_that_is_behind_is_named(behind: str) -> None:
    found = {update.package: update for update in updates.pending(behind)}
    assert found["tzdata"].installed == OLD
    assert found["tzdata"].candidate > "2025"


@pytest.mark.more
def test_where_the_mirror_is_silent_nothing_is_said_to_be_fine(
    behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = buildenv.variables() | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    monkeypatch.setattr(buildenv, "variables", lambda: closed)
    age = updates.look("base", behind)
    assert age.unknown.startswith("its mirror does not answer")
    assert "not known" in age.said(age.built)
