"""What a person does to `srun` and `salloc` in their own shell reaches them on the cluster, and ends what they started.

Every case starts at once, so that together they take as long as the slowest of them.
"""

import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from infra.base.paths import CHECKOUT
from tests.lab.conftest import INTERRUPTIBLE, Lab, until

TESTED = {"real": ["place lab"]}
WAIT_S = 30  # for Slurm to let go of a job; srun itself gives its tasks 2 s less

SRUN = ("srun", "--mem=50M", "--ntasks=1", "--overcommit")


def started(lab: Lab, words: tuple[str, ...], job: str, **how: object) -> subprocess.Popen[bytes]:
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [*INTERRUPTIBLE, words[0], *([f"--job-name={job}"] if job else []), *words[1:]],
        cwd=CHECKOUT,
        env=lab.env,
        **how,
    )


def runs(lab: Lab, job: str) -> None:
    until(f"{job} to run", lambda: "RUNNING" in lab.ok(f"squeue -h -n {job} -o %T"), timeout_s=60)


def killed(number: signal.Signals) -> Callable[[Lab, str], int]:
    """A script, a job of cron, a CI: no terminal, and one signal."""

    def case(lab: Lab, job: str) -> int:
        process = started(lab, (*SRUN, "sleep", "300"), job)
        runs(lab, job)
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode

    return case


def allocation(lab: Lab, job: str) -> int:
    process = started(lab, ("salloc", "--mem=50M", "sleep", "300"), job)
    runs(lab, job)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def timed(lab: Lab, job: str) -> int:
    """`timeout 20 srun sleep 300`, cut short here by the signal that timeout would have sent."""
    words = ["timeout", "300", *SRUN, f"--job-name={job}", "sleep", "300"]
    process = subprocess.Popen(
        words, cwd=CHECKOUT, env=lab.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    runs(lab, job)
    process.send_signal(signal.SIGTERM)
    return process.wait(60)


def unread(lab: Lab, job: str) -> int:
    """`srun yes | head -1`."""
    process = started(lab, (*SRUN, "sh", "-c", "while echo x; do sleep 0.1; done"), job)
    runs(lab, job)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    return process.wait(60)


class Terminal:
    """A terminal of its own with a command in it."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.chdir(CHECKOUT)
            os.execvpe(INTERRUPTIBLE[0], [*INTERRUPTIBLE, *words], lab.env)
        self.open = True
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        """What is not read would stop who writes it."""
        while self.open:
            try:
                if select.select([self.screen], [], [], 0.1)[0] and not os.read(self.screen, 4096):
                    return
            except OSError:  # its command has ended
                return

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def close(self) -> None:
        self.open = False
        self.reader.join()
        os.close(self.screen)

    def wait(self) -> int:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.1)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it has not ended")


def typed(lab: Lab, job: str) -> int:
    """Ctrl-C twice, as srun asks for it."""
    terminal = Terminal(lab, SRUN[0], f"--job-name={job}", *SRUN[1:], "sleep", "300")
    runs(lab, job)
    terminal.type(b"\x03")
    time.sleep(0.3)
    terminal.type(b"\x03")
    return terminal.wait()


def closed(lab: Lab, job: str) -> int:
    """The window is closed, or the line to it breaks."""
    terminal = Terminal(lab, SRUN[0], f"--job-name={job}", *SRUN[1:], "sleep", "300")
    runs(lab, job)
    terminal.close()
    return terminal.wait()


def piped(lab: Lab, job: str) -> int:
    """`srun sleep 300 | tee log` and Ctrl-C: what reads goes first, and nothing is left that would tell srun."""
    line = f"{' '.join(SRUN)} --job-name={job} sleep 300 | tee /dev/null"
    terminal = Terminal(lab, "bash", "-c", line)
    runs(lab, job)
    terminal.type(b"\x03")
    return terminal.wait()


def scripted(lab: Lab, job: str) -> int:
    """The same in a script whose group is interrupted."""
    line = f"{' '.join(SRUN)} --job-name={job} sleep 300 | tee /dev/null"
    process = started(lab, ("bash", "-c", line), "", start_new_session=True, stdout=None, stderr=None)
    runs(lab, job)
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(60)


CASES: dict[str, Callable[[Lab, str], int]] = {
    "interrupted": killed(signal.SIGINT),
    "terminated": killed(signal.SIGTERM),
    "hung-up": killed(signal.SIGHUP),
    "allocation": allocation,
    "timed": timed,
    "unread": unread,
    "typed": typed,
    "closed": closed,
    "piped": piped,
    "scripted": scripted,
}


def test_a_signal_or_a_closed_pipe_ends_what_was_started(lab: Lab) -> None:
    ended: dict[str, int] = {}

    def run(name: str) -> None:
        ended[name] = CASES[name](lab, f"end-{name}")

    threads = [threading.Thread(target=run, args=[name]) for name in CASES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert ended.keys() == CASES.keys()
    assert not [name for name, status in ended.items() if status == 0], ended
    jobs = ",".join(f"end-{name}" for name in CASES)
    until("every job's end", lambda: lab.ok(f"squeue -h -n {jobs} -o '%j %T'") == "", timeout_s=WAIT_S)
