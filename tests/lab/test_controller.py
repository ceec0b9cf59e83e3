"""Slurm's own parser accepts what is rendered: a slurmctld starts with it and knows every node and GPU."""

import subprocess
from collections import Counter
from pathlib import Path

from infra.base.paths import CHECKOUT
from infra.images import targets
from infra.model.load import load_cluster
from tests import strategies
from tests.lab.conftest import Lab

TESTED = {"real": ["Slurm with accounting"]}

COUNT = 12  # random clusters; the same ones every time


def controllers(folder: Path) -> "subprocess.CompletedProcess[str]":
    """tests/lab/controllers.sh on every cluster rendered below `folder`."""
    tags = targets.current(["node"])
    assert tags, "the lab of this test is up, so its image is there"
    script = CHECKOUT / "tests" / "lab" / "controllers.sh"
    mounts = ["--volume", f"{folder / 'build'}:/clusters:ro", "--volume", f"{script}:/controllers.sh:ro"]
    words = ["docker", "run", "--rm", "--init", "--hostname", "slurmctld", *mounts, tags["node"]]
    return subprocess.run([*words, "/controllers.sh"], capture_output=True, text=True, check=False)


def test_a_controller_starts_with_any_valid_cluster(tmp_path: Path, lab: Lab) -> None:
    folders = strategies.write(tmp_path, COUNT)
    done = controllers(tmp_path)
    assert done.returncode == 0, done.stderr
    got: dict[str, Counter[str]] = {folder.name: Counter() for folder in folders}
    for line in done.stdout.splitlines():
        name, _, gres = line.split("|")
        got[name]["nodes"] += 1
        counts = [item.split("(")[0].rsplit(":", 1)[1] for item in gres.split(",") if item.startswith("gpu")]
        got[name]["gpus"] += sum(int(count) for count in counts)
    for folder in folders:
        cluster = load_cluster(tmp_path / "clusters" / f"{folder.name}.yaml", root=tmp_path)
        nodes = sum(len(pool.nodes) for pool in cluster.pools)
        gpus = sum(pool.gpus * len(pool.nodes) for pool in cluster.pools)
        assert got[folder.name] == Counter(nodes=nodes, gpus=gpus), folder.name


def test_the_check_above_can_fail(tmp_path: Path, lab: Lab) -> None:
    (folder,) = strategies.write(tmp_path, 1)
    conf = folder / "slurm" / "slurm.conf"
    conf.write_text(conf.read_text() + "NoSuchKey=1\n")
    done = controllers(tmp_path)
    assert done.returncode != 0
    assert "NoSuchKey" in done.stderr
