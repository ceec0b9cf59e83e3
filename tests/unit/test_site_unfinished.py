"""What a stopped run of Ansible had still to do is kept until a run has come to its end on that machine."""

from pathlib import Path
from typing import Any

from infra.places.site import unfinished
from infra.places.site.play import Played, _take


def event(kind: str, task: str, id: str, host: str = "", **result: Any) -> dict[str, Any]:
    return {
        "_event": kind,
        "_timestamp": "2026-01-01T10:00:00Z",
        "task": {"name": task, "id": id},
        "hosts": {host: result} if host else {},
    }


def notified(host: str, handler: str) -> dict[str, Any]:
    return {"_event": "v2_playbook_on_notify", "host": host, "handler": handler}


def test_a_handler_is_pending_until_it_has_run() -> None:
    played = Played()
    _take(notified("a", "ssh : Reload"), played, None)
    _take(notified("b", "ssh : Reload"), played, None)
    _take(notified("b", "munge : Restart"), played, None)
    _take(event("v2_playbook_on_handler_task_start", "ssh : Reload", "7"), played, None)
    for host in ("a", "b"):
        _take(event("v2_runner_on_ok", "ssh : Reload", "7", host, changed=True), played, None)
    assert played.pending == {"a": [], "b": ["munge : Restart"]}
    assert not played.complete
    _take(event("v2_runner_on_ok", "munge : Restart", "8", "b"), played, None)  # a task of that name is none
    assert played.pending["b"] == ["munge : Restart"]
    _take({"_event": "v2_playbook_on_stats"}, played, None)
    assert played.complete


def test_it_is_kept_over_runs_until_one_ends_well(tmp_path: Path) -> None:
    unfinished.save(tmp_path, {}, {"a": ["ssh : Reload"], "b": []}, set())
    kept = unfinished.load(tmp_path)
    assert kept == {"a": ["ssh : Reload"], "b": []}
    unfinished.save(tmp_path, kept, {"a": ["munge : Restart"]}, {"b"})
    kept = unfinished.load(tmp_path)
    assert kept == {"a": ["munge : Restart", "ssh : Reload"]}
    unfinished.save(tmp_path, kept, {}, {"a"})
    assert unfinished.load(tmp_path) == {}
    assert not (tmp_path / "unfinished.json").exists()
