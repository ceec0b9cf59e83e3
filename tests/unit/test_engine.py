"""The engine that we ask by its API is the one that the person's command line asks."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from infra.base.errors import Failure
from infra.host import engine


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    before = engine._local.__dict__.pop("client", None)
    yield tmp_path
    engine._local.__dict__.pop("client", None)
    if before:
        engine._local.client = before


def asked(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address that a client is made for."""
    found: list[str] = []
    plain = docker.APIClient.__init__

    def init(self: docker.APIClient, base_url: str | None = None, *words: Any, **how: Any) -> None:
        found.append(base_url or "")
        plain(self, base_url, *words, **(how | {"version": "1.44"}))

    monkeypatch.setattr(docker.APIClient, "__init__", init)
    engine.client()
    return found[0]


def use(config: Path, name: str, host: str) -> None:
    """What `docker context create` and `docker context use` write."""
    meta = config / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    (config / "config.json").write_text(json.dumps({"currentContext": name}))


def test_the_context_in_use_is_the_one_of_the_command_line(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(monkeypatch).endswith("/var/run/docker.sock")
    engine._local.__dict__.pop("client")
    use(config, "rootless", "unix:///run/user/1000/docker.sock")
    assert asked(monkeypatch).endswith("/run/user/1000/docker.sock")


def test_the_environment_is_stronger(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere.sock")
    assert asked(monkeypatch).endswith("elsewhere.sock")


def test_a_context_that_is_gone_is_a_line(config: Path) -> None:
    (config / "config.json").write_text(json.dumps({"currentContext": "gone"}))
    with pytest.raises(Failure, match="the Docker engine does not answer; run: make host"):
        engine.client()
