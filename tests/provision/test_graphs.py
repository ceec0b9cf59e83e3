"""The whole resource graph of real shapes, as it is committed in tests/golden/provision/. Nothing is made."""

from pathlib import Path

import pytest

from infra.provision.graph import graph, text
from tests import committed
from tests.checkout import GOLDEN, checkout
from tests.provision.clouds import SHAPES, load

TESTED = {"mocks": ["place aws", "place gcp", "TPU", "EFA, InfiniBand, RoCE", "aarch64"]}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What is committed of each shape's graph."""
    root, seen = checkout(tmp_path_factory.mktemp("golden")), committed.Seen()
    graphs = {shape: committed.ranges(text(graph(load(root, data, shape)))) for shape, data in SHAPES.items()}
    return {
        shape: seen.fold(shape, {f"{shape[:3]}.txt": resources}, (shape, "CLUSTER"))
        for shape, resources in graphs.items()
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_is_the_committed_one(
    shape: str, golden: dict[str, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    committed.compare(GOLDEN / "provision" / shape, golden[shape], request)


def test_every_golden_graph_has_its_shape() -> None:
    assert {path.name for path in (GOLDEN / "provision").iterdir()} == set(SHAPES)


def test_the_same_cluster_gives_the_same_graph(root: Path) -> None:
    cluster = load(root, SHAPES["aws-h100"])
    assert text(graph(cluster)) == text(graph(cluster))
