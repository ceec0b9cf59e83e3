"""The lock that Pulumi keeps in its state: a dead run's is told from a living one's."""

import os
import socket
import subprocess
import time
from pathlib import Path

from infra.provision import lock
from infra.provision.provisioner import begun


def test_only_a_process_of_this_host_that_is_gone_is_dead() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = socket.gethostname()
    assert lock.Holder("a", here, gone.pid, "").dead
    assert not lock.Holder("a", "elsewhere", gone.pid, "").dead
    # this process is no pulumi: its number was given out again
    assert lock.Holder("a", here, os.getpid(), "").dead


def test_a_living_engine_is_not_dead(tmp_path: Path) -> None:
    engine = tmp_path / "pulumi"
    engine.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(engine), "60"])
    try:
        while Path(f"/proc/{process.pid}/comm").read_text() != "pulumi\n":
            time.sleep(0.01)  # it begins as a copy of this process
        assert not lock.Holder("a", socket.gethostname(), process.pid, "").dead
    finally:
        process.kill()
        process.wait()


def test_holders_are_read_from_pulumis_refusal() -> None:
    said = (
        "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or"
        " delete the lock file with `pulumi cancel`.\n  file:///x/1.json: created by root@vm (pid 26766) at"
        " 2026-11-23T07:39:05Z"
    )
    assert lock.holders(said) == [lock.Holder("root", "vm", 26766, "2026-11-23T07:39:05Z")]


def test_what_a_killed_run_had_begun_is_named() -> None:
    urn = "urn:pulumi:x::slipway::aws:ec2/instance:Instance::slipway-x-c1"
    assert begun({"pending_operations": [{"resource": {"urn": urn}, "type": "creating"}]}) == ["slipway-x-c1"]
    assert begun({}) == begun({"pending_operations": None}) == []
