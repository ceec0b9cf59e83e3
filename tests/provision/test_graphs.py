"""The whole resource graph of real shapes, as it is committed in tests/golden/provision/. Nothing is made."""

import difflib
from pathlib import Path

import pytest

from infra.provision.graph import graph, text
from tests.checkout import GOLDEN
from tests.provision.clouds import SHAPES, load

TESTED = {"mocks": ["place aws", "place gcp", "TPU", "EFA, InfiniBand, RoCE", "aarch64"]}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_is_the_committed_one(shape: str, root: Path, request: pytest.FixtureRequest) -> None:
    now = text(graph(load(root, SHAPES[shape], shape)))
    path = GOLDEN / "provision" / f"{shape}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(now)
    committed = path.read_text() if path.exists() else ""
    diff = difflib.unified_diff(committed.splitlines(), now.splitlines(), "committed", "now", lineterm="")
    assert now == committed, "\n".join(diff) + "\nmeant? pytest --update-golden, then read the diff"


def test_every_golden_graph_has_its_shape() -> None:
    assert {path.stem for path in (GOLDEN / "provision").glob("*.txt")} == set(SHAPES)


def test_the_same_cluster_gives_the_same_graph(root: Path) -> None:
    cluster = load(root, SHAPES["aws-h100"])
    assert text(graph(cluster)) == text(graph(cluster))
