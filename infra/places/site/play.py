"""Running Ansible on the machines, and reading what it says while it says it.

Its callback `ansible.posix.jsonl` gives one event a line; from these come the progress, the log that people read,
and for every machine what was changed, or what would be.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.process import start
from infra.base.progress import Step
from infra.places.site import unfinished
from infra.places.site.site import Site

FORKS = 50  # machines that are worked on at the same time
# What Ansible says before the reason.
NOISE = (
    r"^((Task failed|Module failed|Failed to connect to the host via ssh): |"
    r'Data could not be sent to remote host "[^"]*"\. Make sure this host can be reached over ssh: )+'
)
RESULTS = {
    "v2_runner_on_ok": "ok",
    "v2_runner_on_failed": "failed",
    "v2_runner_on_unreachable": "unreachable",
}


@dataclass(frozen=True)
class Result:
    """What one task said about one machine: changed, failed or unreachable; the rest is not kept."""

    host: str
    task: str  # "role : task" as Ansible names it
    state: str
    message: str
    diffs: tuple[tuple[str, str, str], ...] = ()  # (what, before, after)
    handler: bool = False  # it follows from what another task changed


@dataclass
class Played:
    """The outcome of a playbook."""

    results: list[Result] = field(default_factory=list)
    tasks: int = 0
    hosts: set[str] = field(default_factory=set)
    handlers: set[str] = field(default_factory=set)  # ids of tasks
    pending: dict[str, list[str]] = field(default_factory=dict)  # machine -> handlers that are to run yet
    complete: bool = False  # whether it came to its end

    def of(self, state: str) -> list[Result]:
        return [result for result in self.results if result.state == state]

    @property
    def changed(self) -> list[Result]:
        return self.of("changed")

    @property
    def begun(self) -> dict[str, list[str]]:
        """Machines on which something was changed, each with the handlers that have not run yet."""
        nothing: dict[str, list[str]] = {result.host: [] for result in self.results}
        return nothing | self.pending

    @property
    def broken(self) -> dict[str, str]:
        """Machines that are not configured, each with the first reason."""
        reasons: dict[str, str] = {}
        for result in self.results:
            if result.state == "unreachable":
                reasons.setdefault(result.host, f"unreachable: {result.message}")
            elif result.state == "failed":
                reasons.setdefault(result.host, f"{result.task}: {result.message}")
        return reasons


def play(
    site: Site,
    step: Step | None = None,
    *,
    book: str = "site.yml",
    check: bool = False,
    limit: list[str] | None = None,
    tags: list[str] | None = None,
    variables: dict[str, Any] | None = None,
) -> Played:
    """Run a playbook of ansible/ on the machines. `check`: only say what it would change.

    A machine that fails does not stop the others: it is in `Played.broken`. Raises Failure when Ansible itself
    could not run.
    """
    counts = book == "site.yml" and not check and not tags
    before = unfinished.load(site.folder)
    given = (variables or {}) | ({"site_unfinished": before} if before else {})
    words: list[str | Path] = [
        Path(sys.executable).with_name("ansible-playbook"),
        *("--inventory", site.folder / "ansible" / "inventory.yaml"),
        *("--forks", str(FORKS)),
        *(["--check", "--diff"] if check else []),
        *(["--limit", ",".join(limit)] if limit is not None else []),
        *(["--tags", ",".join(tags)] if tags else []),
        *(["--extra-vars", json.dumps(given)] if given else []),
        CHECKOUT / "ansible" / book,
    ]
    log = site.folder / "logs" / ("ansible-check.log" if check else "ansible.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    process = start(
        words,
        env=environment(site),
        cwd=CHECKOUT / "ansible",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    played = Played()
    other: list[str] = []
    try:
        with log.open("w") as file:
            for event in _events(process.stdout, other):
                text = _take(event, played, step)
                if counts and event["_event"] == "v2_playbook_on_notify":  # we may be killed
                    unfinished.save(site.folder, before, played.begun, set())
                if text:
                    file.write(text + "\n")
                    file.flush()
        error = process.stderr.read()
    finally:
        process.terminate()
        status = process.wait()
        if counts:
            done = played.hosts - played.broken.keys() if played.complete else set()
            unfinished.save(site.folder, before, played.begun, done)
    if status not in (0, 2, 4) or (status and not played.broken):
        said = [line for line in [*error.splitlines(), *other] if line.strip()]
        first = next((line for line in said if "ERROR" in line), said[-1] if said else f"status {status}")
        raise Failure(f"ansible-playbook: {first.strip()}\n  log: {log}")
    if not played.hosts and limit is None and not tags:
        raise Failure(f"ansible-playbook: {book} has found no machine to run on\n  log: {log}")
    return played


def environment(site: Site) -> dict[str, str]:
    return {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible" / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.jsonl",
        "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "ansible" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "slipway_notify",
        "ANSIBLE_SSH_ARGS": f"-F {shlex.quote(str(site.ssh_config))}",
        "ANSIBLE_NOCOLOR": "1",
    }


def _events(lines: Any, other: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            other.append(line)
            continue
        yield event


def _take(event: dict[str, Any], played: Played, step: Step | None) -> str:
    """Note an event; returns its line for the log, empty for none."""
    kind = event["_event"]
    task = event.get("task", {}).get("name", "")
    if kind in ("v2_playbook_on_task_start", "v2_playbook_on_handler_task_start"):
        played.tasks += 1
        if "handler" in kind:
            played.handlers.add(event["task"]["id"])
        if step:
            step.doing(task)
        return ""
    if kind == "v2_playbook_on_play_start":
        return f"== {event['play']['name']}"
    if kind == "v2_playbook_on_notify":
        played.pending.setdefault(event["host"], []).append(event["handler"])
    elif kind == "v2_playbook_on_stats":
        played.complete = True
    elif kind in ("v2_runner_on_ok", "v2_runner_on_skipped") and event["task"].get("id") in played.handlers:
        for host in event["hosts"]:
            left = played.pending.get(host, [])
            played.pending[host] = [name for name in left if name != task]
    if kind not in RESULTS:
        return ""
    lines = []
    for host, result in event["hosts"].items():
        played.hosts.add(host)
        state = RESULTS[kind]
        if state == "ok" and result.get("changed"):
            state = "changed"
        elif state == "failed" and result.get("ignore_errors"):
            continue
        message = _message(result) if state in ("failed", "unreachable") else ""
        if state != "ok":
            handler = event["task"].get("id") in played.handlers
            played.results.append(Result(host, task, state, message, tuple(_diffs(result)), handler))
            lines.append(f"{event['_timestamp'][11:19]} {state:<11} {host:<16} {task}  {message}".rstrip())
            lines += [f"    {what}" for what, _, _ in _diffs(result)]
    return "\n".join(lines)


def _message(result: dict[str, Any]) -> str:
    """One line that says why: the failed item's where a loop failed."""
    failed = [item for item in result.get("results", []) if item.get("failed")]
    text = str((failed[0] if failed else result).get("msg", "no message"))
    stderr = str((failed[0] if failed else result).get("stderr", "")).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else "no message"
    if stderr and ("non-zero return code" in first or first == "no message"):
        first = stderr.splitlines()[-1].strip()
    return re.sub(NOISE, "", first) or first


def _diffs(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What the task changed: (path or kind, before, after), of every item that changed."""
    for item in result.get("results") or [result]:
        if not item.get("changed"):
            continue
        found = item.get("diff") or []
        for diff in found if isinstance(found, list) else [found]:
            # after_header of a template is a file of this machine's
            name = diff.get("before_header") or diff.get("after_header") or ""
            before, after = diff.get("before", ""), diff.get("after", "")
            if diff.get("prepared"):
                after = diff["prepared"]
            if before != after:
                yield str(name), _text(before), _text(after)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
