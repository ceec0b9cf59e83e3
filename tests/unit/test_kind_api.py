"""The client of a cluster's API server: what goes wrong is one line of the right type, and a view follows changes."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.places.kind import api, objects
from infra.places.kind.api import Api
from infra.places.kind.objects import NODES, WORKLOADS
from infra.places.kind.view import View, gone
from tests.apiserver import Served, kubeconfig, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """With a node c1."""
    with serving(tmp_path) as there:
        there.cluster.put("/api/v1/nodes/c1", {"metadata": {"name": "c1"}})
        yield there


def names(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(each["metadata"]["name"] for each in objects)


def one_line(call: Callable[[], object], wanted: type[Failure]) -> str:
    with pytest.raises(wanted) as raised:
        call()
    assert type(raised.value) is wanted
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_objects_say_what_they_are(served: Served) -> None:
    (found,) = served.api.get(NODES)
    assert (found["apiVersion"], found["kind"], found["metadata"]["name"]) == ("v1", "Node", "c1")


def test_the_persons_surroundings_mean_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    assert names(Api(served.file).get(NODES)) == ["c1"]


def test_the_key_is_on_no_disk_and_stays_open_nowhere(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    Api(served.file).get(NODES)
    assert list(scratch.iterdir()) == []
    assert not [each for each in Path("/proc/self/fd").iterdir() if "memfd:client" in _link(each)]


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # of the listing itself
        return ""


def test_a_server_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = Api(kubeconfig(tmp_path / "kubeconfig", port))
    text = one_line(lambda: there.get(NODES), objects.Unanswered)
    assert text == f"the API server (https://127.0.0.1:{port}) does not answer: connection refused"
    assert not there.ready()


def test_a_server_that_is_silent_is_one_line_in_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 0.2)
    served.cluster.silent = True
    begin = time.monotonic()
    assert one_line(lambda: served.api.get(NODES), objects.Unanswered).endswith("it took too long")
    assert time.monotonic() - begin < 2


def test_another_clusters_certificate_is_told_of(served: Served) -> None:
    file = kubeconfig(served.file.with_name("other"), served.port, trusted="other")
    assert "which is another cluster's" in one_line(lambda: api.connect(file).get(NODES), objects.Unanswered)


@pytest.mark.parametrize("text", ["", "{", "clusters: []\nusers: []", "clusters: 3", "a: b: c", "\x00"])
def test_a_broken_kubeconfig_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    assert str(tmp_path) in one_line(lambda: api.connect(tmp_path / "kubeconfig"), objects.Unanswered)


def test_a_kubeconfig_that_was_written_again_is_read_again(served: Served) -> None:
    assert names(served.api.get(NODES)) == ["c1"]
    kubeconfig(served.file, 1)
    one_line(lambda: served.api.get(NODES), objects.Unanswered)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, objects.Refused),
        (401, objects.Refused),
        (403, objects.NotYet),  # of a read: the server has not read its own rules yet
        (404, objects.Missing),
        (409, objects.Exists),
        (410, objects.Expired),
        (422, objects.Refused),
        (429, objects.NotYet),
        (500, objects.NotYet),
        (503, objects.NotYet),
        (504, objects.NotYet),
    ],
)
def test_a_no_has_the_servers_words_and_a_type(served: Served, status: int, kind: type[Failure]) -> None:
    served.cluster.refuse = (status, "denied [/b] the\n request")
    assert one_line(lambda: served.api.get(NODES), kind) == "denied [/b] the request"


def test_a_change_that_is_forbidden_stays_forbidden(served: Served) -> None:
    served.cluster.refuse = (403, "denied by a policy")
    one_line(lambda: served.api.patch(NODES, "c1", []), objects.Refused)


def test_what_is_not_there(served: Served) -> None:
    served.cluster.refuse = (404, "no such node")
    assert served.api.read(NODES, "c9") is None
    served.api.delete(NODES, "c9")
    one_line(lambda: served.api.patch(NODES, "c9", []), objects.Missing)


def test_a_kind_that_nobody_has_defined_is_not_yet_there(served: Served) -> None:
    assert "Workload" in one_line(lambda: served.api.get(WORKLOADS), objects.Undefined)


def test_what_speaks_no_kubernetes_is_told_of(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.api.raw("/html") == "<html>"
    monkeypatch.setattr(served.cluster, "html", True)
    text = one_line(lambda: served.api.get(NODES), objects.Unanswered)
    assert text.endswith("what listens there is no api server")


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_view_follows_changes(served: Served) -> None:
    with View(served.api, NODES) as seen:
        assert names(seen.of(NODES)) == ["c1"]
        served.cluster.change("ADDED", "c2")
        eventually(lambda: names(seen.of(NODES)) == ["c1", "c2"])
        served.cluster.change("DELETED", "c1")
        eventually(lambda: names(seen.of(NODES)) == ["c2"])
        lists = sum(
            each.startswith("GET /api/v1/nodes") and "watch" not in each for each in served.cluster.asked
        )
        assert lists == 1, "nothing is asked for twice"


def test_a_view_goes_on_where_a_connection_ended(served: Served) -> None:
    with View(served.api, NODES) as seen:
        served.cluster.change("ADDED", "c2")
        eventually(lambda: names(seen.of(NODES)) == ["c1", "c2"])
        served.cluster.changes.put(None)
        served.cluster.change("ADDED", "c3")
        eventually(lambda: names(seen.of(NODES)) == ["c1", "c2", "c3"])
        assert f"resourceVersion={served.cluster.version - 1}" in served.cluster.asked[-1]


def test_a_view_lists_again_when_the_server_has_forgotten(served: Served) -> None:
    with View(served.api, NODES) as seen:
        served.cluster.objects.clear()
        served.cluster.put("/api/v1/nodes/c7", {"metadata": {"name": "c7"}})
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        served.cluster.changes.put(("ERROR", gone))
        eventually(lambda: names(seen.of(NODES)) == ["c7"])


def test_waiting_ends_with_the_change_that_it_waits_for(served: Served) -> None:
    shown = Step("", None)
    with View(served.api, NODES) as seen:
        threading.Timer(0.1, served.cluster.change, ("ADDED", "c2")).start()
        seen.until(
            lambda: "" if "c2" in names(seen.of(NODES)) else "c2 is missing", 5, what="nodes", step=shown
        )
    assert shown.text == "waiting for c2 is missing"


def test_waiting_in_vain_says_for_what(served: Served) -> None:
    with View(served.api, NODES) as seen, pytest.raises(Failure) as failure:
        seen.until(lambda: "c2 is missing", 0.1, what="nodes")
    assert str(failure.value) == "still waiting for nodes after 0 s: c2 is missing"


def test_waiting_outlives_a_server_that_is_away(served: Served) -> None:
    shown = Step("", None)
    served.cluster.refuse = (503, "starting")
    with View(served.api, NODES) as seen:
        threading.Timer(0.2, lambda: setattr(served.cluster, "refuse", None)).start()
        seen.until(lambda: "" if seen.of(NODES) else "none", 5, step=shown)
    assert shown.text == "waiting for starting"


def test_the_end_of_a_removal_is_waited_for(served: Served) -> None:
    threading.Timer(0.1, served.cluster.change, ("DELETED", "c1")).start()
    gone(served.api, NODES, names=["c1"], timeout_s=5)
    with pytest.raises(Failure, match=r"the end of Node after .*: c2"):
        served.cluster.change("ADDED", "c2")
        gone(served.api, NODES, timeout_s=0.1)
