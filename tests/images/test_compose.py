"""Compose's own parser takes the lab's file, and mounts the checkout whatever its path is. Needs Docker's client."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.model.load import load_cluster
from infra.render import render
from tests.checkout import LAPTOP, checkout

TESTED = {"text": ["place lab"]}


@pytest.mark.parametrize("name", ["lab", "both"])
@pytest.mark.parametrize("path", ["/home/ada/slipway", "/home/ada/my work/50 % $HOME 'x' {y}"])
def test_compose_reads_what_was_meant(name: str, path: str, tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "clusters" / f"{name}.yaml").write_text((CHECKOUT / f"clusters/{name}.yaml").read_text())
    machine = replace(LAPTOP, checkout=Path(path), cache=Path(path) / "cache")
    cluster = load_cluster(f"clusters/{name}.yaml", root=root, host=machine)
    (tmp_path / "compose.yaml").write_text(render(cluster)["compose.yaml"])
    done = subprocess.run(
        ["docker", "compose", "--file", tmp_path / "compose.yaml", "config", "--format", "json"],
        env={**os.environ, "NODE_IMAGE": "node"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "nothing that Compose warns of"
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"db", "slurmdbd", "slurmctld", "login", *cluster.nodes}
    for node in ("login", *cluster.nodes):
        sources = {volume["source"].replace("$$", "$") for volume in services[node]["volumes"]}
        assert path in sources
        assert any(source.startswith(f"{path}/cache/stacks/") for source in sources)
