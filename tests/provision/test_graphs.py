"""The whole resource graph of real shapes, as it is committed in tests/golden/provision/. Nothing is made."""

import pytest

from infra.provision.graph import graph, text
from tests import committed
from tests.checkout import GOLDEN
from tests.provision.clouds import SHAPES, made

TESTED = {"mocks": ["place aws", "place gcp", "TPU", "EFA, InfiniBand, RoCE", "aarch64"]}


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, str]]:
    """What is committed of each shape's graph."""
    seen = committed.Seen()
    graphs = {shape: committed.ranges(text(made(shape)[1])) for shape in SHAPES}
    return {
        shape: seen.fold(shape, {f"{shape[:3]}.txt": resources}, ("small", "CLUSTER"))
        for shape, resources in graphs.items()
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_is_the_committed_one(
    shape: str, golden: dict[str, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    committed.compare(GOLDEN / "provision" / shape, golden[shape], request)


def test_every_golden_graph_has_its_shape() -> None:
    assert {path.name for path in (GOLDEN / "provision").iterdir()} == set(SHAPES)


def test_the_same_cluster_gives_the_same_graph() -> None:
    cluster, before = made("aws-h100")
    assert text(graph(cluster)) == text(before)
