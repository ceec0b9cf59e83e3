"""Kubernetes: the user's own kubeconfig stays theirs, and `make cluster-down` leaves nothing. Runs last: it ends it."""

from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.base.process import output
from tests.kind import leaks
from tests.kind.conftest import Trial, docker

TESTED = {"real": ["Kubernetes", "secrets"]}


@pytest.fixture
def home(tmp_path: Path, kind: Trial) -> Path:
    """Someone's home, with a kubeconfig of their own."""
    config = tmp_path / ".kube" / "config"
    config.parent.mkdir()
    config.write_text(
        "apiVersion: v1\nkind: Config\n# mine\nclusters:\n- cluster:\n    server: https://mine\n  name: mine\n"
    )
    return tmp_path


def in_home(kind: Trial, home: Path, *words: str) -> str:
    cache = Path.home() / ".cache"  # what was built stays where it is
    return kind.ok(f"HOME={home} XDG_CACHE_HOME=${{XDG_CACHE_HOME:-{cache}}} make {' '.join(words)}")


def test_the_users_own_kubeconfig_is_added_to_on_request_only(kind: Trial, home: Path) -> None:
    config = home / ".kube" / "config"
    before = config.read_text()
    in_home(kind, home, "cluster-up", "JOB=")
    assert config.read_text() == before
    in_home(kind, home, "kubeconfig")
    assert "# mine" in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600
    context = f"kind-{kind.kind.name}"
    assert kind.ok(f"KUBECONFIG={config} kubectl --context {context} get nodes -o name")
    in_home(kind, home, "kubeconfig", "UNDO=1")
    assert config.read_text() == before


def test_no_key_of_the_cluster_is_where_others_can_read_it(kind: Trial) -> None:
    assert kind.kind.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert leaks.search(leaks.values(kind.kind.kubeconfig), leaks.files(kind.kind.folder)) == []


def test_down_leaves_nothing(kind: Trial, home: Path) -> None:
    config = home / ".kube" / "config"
    before = config.read_text()
    in_home(kind, home, "kubeconfig")
    containers = [container.name for container in kind.kind.containers()]
    facts = docker("inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", *containers)
    volumes = facts.split()
    assert volumes, "nodes keep /var in a volume"
    in_home(kind, home, "cluster-down")
    assert kind.kind.containers() == []
    assert kind.kind.networks() == []
    assert not kind.kind.kubeconfig.exists()
    assert config.read_text() == before
    assert not set(volumes) & set(output(["docker", "volume", "ls", "--quiet"]).split())
    assert kind.kind.name not in output(["docker", "ps", "--all", "--format", "{{.Names}}"])
    assert any(kind.kind.runs.iterdir()), "what jobs wrote stays"
    said = kind.sh("kubectl get nodes")
    assert said.returncode != 0


def test_purge_removes_what_jobs_wrote(kind: Trial) -> None:
    assert kind.make("cluster-down", "PURGE=1").returncode == 0
    assert not kind.kind.folder.exists()
    again = kind.make("cluster-down", "PURGE=1")
    assert again.returncode == 0, again.stderr
    assert (CHECKOUT / "build").is_dir()
