"""What bin/sbatch, bin/srun and their brothers do: run Slurm's own command on the login node, as if it were here.

`docker exec` and `ssh` carry bytes and a status, and little else. What a person takes for granted beside those is
done here, and each has a test in tests/lab/test_commands.py:

- the folder: a job starts where the command was typed;
- the environment: what Slurm documents as input reaches it, what describes another cluster's job does not;
- the clock: times are read and shown in one's own zone, which the node does not have;
- stdin is read only by a command that reads it, so that a loop around sbatch keeps its lines;
- signals and a closed pipe reach the command, so that srun and salloc cancel what they have started.

It runs with nothing but Python's own library, in some 30 ms (`python -I -S`).
"""

import os
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.process import run as finished
from infra.base.process import start, succeeds

SUBMITS = ("sbatch", "srun", "salloc")
CLUSTER = os.environ.get("SLIPWAY_CLUSTER") or "lab"
USER = os.environ.get("SLIPWAY_USER") or "ml"

# -- what is started over there

# First the number by which a signal finds the command: its own process id, behind this call's name. Then what a
# login would have set (salloc starts $SHELL). `exec`, so that nothing stands between the command and its signals.
BEGIN = """\
export SLIPWAY_CALL="$1.$$" USER="$(id -un)" LOGNAME="$(id -un)" SHELL=/bin/bash
if ! cd -- "$2" 2>/dev/null; then
  echo "$3: $2 is not on the cluster" >&2
  exit 2
fi
shift 2
exec "$@"
"""
# It may have been started a moment ago and not have come to its name yet.
TELL = """\
for try in 1 2 3 4 5 6 7 8 9 10; do
  for file in $(grep -alsz "^SLIPWAY_CALL=$1[.]" /proc/[0-9]*/environ); do
    pid=${file#/proc/} pid=${pid%/environ}
    if grep -aqsz "^SLIPWAY_CALL=$1[.]$pid$" "$file"; then kill -s "$2" "$pid"; exit; fi
  done
  [ "$3" = wait ] || exit 1
  sleep 0.1
done
exit 1
"""
TELL_S = 10  # for the engine or ssh to pass a signal on


class Way(Protocol):
    """How a command gets to the login node."""

    def command(self, call: "Call") -> list[str]: ...

    def tell(self, call: "Call", name: str, *, wait: bool) -> list[str]: ...

    def explain(self, name: str) -> str: ...


@dataclass(frozen=True)
class Call:
    """One command of Slurm's. `folder` is where it runs over there, '' for no matter where."""

    name: str
    words: Sequence[str]
    folder: str
    variables: Mapping[str, str]
    stdin: bool
    terminal: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def line(self) -> list[str]:
        return ["sh", "-c", BEGIN, "slurm", self.id, self.folder or "/", self.name, *self.words]


class Containers:
    """The login node is a container of this machine."""

    node = f"{CLUSTER}-login"

    def command(self, call: Call) -> list[str]:
        how = [*(["-i"] if call.stdin else []), *(["-t"] if call.terminal else [])]
        for name in call.variables:  # names alone, so that no value shows in `ps`
            how += ["--env", name]
        return ["docker", "exec", *how, "--user", USER, self.node, *call.line]

    def tell(self, call: Call, name: str, *, wait: bool) -> list[str]:
        words = ["sh", "-c", TELL, "slurm", call.id, name, "wait" if wait else ""]
        return ["docker", "exec", "--user", USER, self.node, *words]

    def explain(self, name: str) -> str:
        """Why it could not run, when that was not the command's own fault; else ''."""
        words = ["docker", "inspect", "--format", "{{.State.Running}}", self.node]
        try:
            there = finished(words, timeout_s=TELL_S, capture_output=True, text=True)
        except Failure as failure:
            return f"{name}: {failure}; run 'make host'"
        if there.stdout.strip() == "true":
            return ""
        if not succeeds(["docker", "info"], timeout_s=TELL_S):
            return f"{name}: the Docker engine does not answer; run 'make host'"
        return f"{name}: cluster '{CLUSTER}' is not up; run 'make cluster-up'"


class Machines:
    """The login node is a machine (make env CLUSTER=clusters/site.yaml): by SSH, in the user's copy of the checkout."""

    def __init__(self, config: Path) -> None:
        login = os.environ.get("SLIPWAY_LOGIN") or "login"
        self.ssh = ["ssh", "-F", str(config)]
        self.login = login

    def command(self, call: Call) -> list[str]:
        values = [f"{name}={value}" for name, value in call.variables.items()]
        below = str(Path(call.folder).relative_to(CHECKOUT)) if call.folder else "/"
        begin = f'cd -- "$HOME/slipway" || exit 2\n{BEGIN}' if call.folder else BEGIN
        line = ["env", *values, "sh", "-c", begin, "slurm", call.id, below, call.name, *call.words]
        how = ["-t" if call.terminal else "-T", *([] if call.stdin else ["-n"])]
        return [*self.ssh, *how, self.login, f"sudo -n -H -u {shlex.quote(USER)} -- {shlex.join(line)}"]

    def tell(self, call: Call, name: str, *, wait: bool) -> list[str]:
        line = ["sh", "-c", TELL, "slurm", call.id, name, "wait" if wait else ""]
        return [*self.ssh, "-n", "-T", self.login, f"sudo -n -u {shlex.quote(USER)} -- {shlex.join(line)}"]

    def explain(self, name: str) -> str:
        return ""  # ssh has said it

    def bring(self, checkout: Path) -> None:
        """The user's copy of the checkout, up to date."""
        file = os.environ.get("SLIPWAY_CLUSTER_FILE")
        if (
            file
            and finished(
                [checkout / ".venv/bin/python", "-m", "infra", "copy", file], cwd=checkout
            ).returncode
        ):
            raise Failure("the checkout could not be copied to the cluster")


# -- what of this machine belongs to the call

# srun's options as environment have the names of what Slurm tells a job about itself. In a shell that is a job's
# (of whatever cluster), they describe that job and ask for nothing.
OF_A_JOB = ("SLURM_JOB_ID", "SLURM_JOBID")
# What names a cluster, a job, a step, a task, and where to ask: never input here. `--jobid` says it where it is meant.
NEVER = re.compile(
    r"SLURM_(CONF\w*|CLUSTERS|CLUSTER_NAME|JWT|JOB_?ID|JOB_(UID|GID|USER|GROUP|NODELIST|CPUS_PER_NODE)|NODELIST|NODEID"
    r"|TASK_PID|TASKS_PER_NODE|LOCALID|PROCID|GTIDS|TOPOLOGY_\w+|SUBMIT_\w+|LAUNCH_\w+|SRUN_COMM_\w+"
    r"|STEP_?ID|STEP_(NODELIST|LAUNCHER_PORT|NUM_\w+|TASKS_PER_NODE))|S[A-Z]+_CLUSTERS"
)
OWN = re.compile(
    r"(SBATCH|SALLOC|SRUN|SQUEUE|SINFO|SACCT|SACCTMGR|SCANCEL|SCONTROL|SPRIO|SSHARE|SSTAT|SDIAG|SREPORT)_\w+"
)
# Documented by several commands, and about how they speak.
SPEECH = re.compile(r"SLURM_(TIME_FORMAT|BITSTR_LEN|DEBUG|DEBUG_FLAGS|EXIT_ERROR|EXIT_IMMEDIATE|UMASK)")


def inputs(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of `given` that the command `name` documents as its input."""
    inside = any(variable in given for variable in OF_A_JOB)
    found = {}
    for variable, value in given.items():
        if NEVER.fullmatch(variable):
            continue
        speaks = OWN.fullmatch(variable) or SPEECH.fullmatch(variable)
        asks = name == "srun" and not inside and variable.startswith("SLURM_")
        if speaks or asks:
            found[variable] = value
    return found


def zone(given: Mapping[str, str], root: Path = Path("/")) -> str:
    """One's own time zone in words that need no database: the rule at the end of its file (RFC 8536), TZ= itself.

    Empty where this machine has none, so that UTC is meant on both sides.
    """
    name = given.get("TZ", "").removeprefix(":")
    file = root / "usr/share/zoneinfo" / name if name else root / "etc/localtime"
    try:
        content = file.read_bytes()
    except (OSError, ValueError):
        return name  # a rule already, such as JST-9
    if not content.startswith(b"TZif"):
        return name
    return content.rstrip(b"\n").rpartition(b"\n")[2].decode(errors="replace")


# Options of sbatch's that stand alone, or take their value behind a `=` only (sbatch --help).
LONG = (
    "contiguous exclusive get-user-env help hold ignore-pbs nice no-kill no-requeue oom-kill-step overcommit"
    " oversubscribe parsable propagate quiet reboot requeue resv-ports spread-job stepmgr test-only usage"
    " use-min-nodes verbose version wait"
)
ALONE = LONG.split()
ALONE_SHORT = "HkOQsvWhV"


def script_on_stdin(words: Iterable[str]) -> bool:
    """Whether sbatch, called with `words`, reads the script from stdin: it has neither a file nor --wrap."""
    value = False  # whether this word is the value of the option before it
    for word in words:
        if value or word == ":":
            value = False
        elif word == "--":
            continue
        elif word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            if len(name) > 1 and "wrap".startswith(name):
                return False
            value = not equals and not any(option.startswith(name) for option in ALONE)
        elif word.startswith("-") and len(word) > 1:
            rest = word[1:].lstrip(ALONE_SHORT)
            value = len(rest) == 1
        else:
            return False
    return True


def reads_stdin(name: str, words: Sequence[str]) -> bool:
    """Whether the command reads what is typed or piped into it, as it would on the login node."""
    match name:
        case "srun" | "salloc" | "sattach" | "scrontab":
            return True
        case "sbatch":
            return script_on_stdin(words)
        case "scancel":  # asks before each job
            return any(re.fullmatch(r"--int\w*|-[A-Za-z]*i", word) for word in words)
        case "sacctmgr":  # asks before it commits
            quick = any(re.fullmatch(r"--imm\w*|-[A-Za-z]*i", word) for word in words)
            return not quick and not {"show", "list"} & set(words)
        case "scontrol" | "sreport":  # have a prompt of their own
            return all(word.startswith("-") for word in words)
        case _:
            return False


def here() -> str | None:
    """The folder where the command was typed; None when that has been removed."""
    try:
        return str(Path.cwd().resolve())
    except FileNotFoundError:
        return None


def visible(folder: str | None) -> bool:
    """Whether nodes see this folder: the checkout, but for build/, where the cluster's secrets are."""
    path = Path(folder) if folder else None
    return bool(path and path.is_relative_to(CHECKOUT) and not path.is_relative_to(CHECKOUT / "build"))


# -- the command's life

# Where nobody sits at a terminal: srun asks for a second Ctrl-C within a second, and salloc, whose allocation has been
# cancelled, goes on waiting for its command.
ALONE_WITH_IT = {"srun": {"SLURM_DISABLE_STATUS": "1"}, "salloc": {"SALLOC_KILL_CMD": "TERM"}}

PASSED = {
    each
    for each in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    )
    if signal.getsignal(each) != signal.SIG_IGN  # nohup, and a shell's background jobs
}


def run(way: Way, call: Call) -> int:
    """Run the command to its end, passing on every signal; its exit status, or 128 and the signal's number."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for each in (*PASSED, signal.SIGCHLD):
        signal.signal(each, lambda *_: None)
    screen = termios.tcgetattr(0) if call.terminal else None
    # A terminal's signals go to its foreground. Who reads from it has to be there; others are told by us alone, so
    # that what Slurm says to a signal is still seen.
    apart = not (call.stdin and os.isatty(0))
    process = start(
        way.command(call),
        env=call.variables,
        stdin=None if call.stdin else subprocess.DEVNULL,
        process_group=0 if apart else None,
    )
    told = False
    while (status := process.poll()) is None:
        if not select.select([woken], [], [], 5)[0]:
            continue
        for number in os.read(woken, 64):
            if number not in PASSED:
                continue
            told = True
            if not tell(way, call, signal.Signals(number), wait=True) and process.poll() is None:
                process.terminate()  # nothing over there listens
    if screen:
        termios.tcsetattr(0, termios.TCSADRAIN, screen)
    if status < 0 or told:
        # What carried it is gone, by a signal or because no one reads: the command over there is told in its place.
        tell(way, call, signal.SIGTERM, wait=False)
    return 128 - status if status < 0 else status


def tell(way: Way, call: Call, number: signal.Signals, *, wait: bool) -> bool:
    """Send a signal to the command; whether it was there. A second Ctrl-C is for it, not for this messenger."""
    return succeeds(way.tell(call, number.name.removeprefix("SIG"), wait=wait), timeout_s=TELL_S)


def main(argv: Sequence[str]) -> int:
    """Run `argv`, a command of Slurm's by its name, and return its exit status."""
    name, *words = argv
    if name == "slurm":
        links = sorted(link.name for link in (CHECKOUT / "bin").iterdir() if link.is_symlink())
        print(f"call it by one of its names: {', '.join(links)}", file=sys.stderr)
        return 2
    folder = here()
    if name in SUBMITS and not visible(folder):
        where = folder or "the folder that you are in, which has been removed,"
        print(f"{name}: {where} is not visible on the cluster; run it inside {CHECKOUT}", file=sys.stderr)
        return 2
    config = CHECKOUT / "build" / CLUSTER / "ssh" / "config"
    way: Way = Machines(config) if config.is_file() else Containers()
    stdin = reads_stdin(name, words) and attended(0)
    terminal = stdin and os.isatty(0) and os.isatty(1)
    variables = inputs(name, os.environ)
    if clock := zone(os.environ):
        variables["TZ"] = clock
    if terminal and "TERM" in os.environ:
        variables["TERM"] = os.environ["TERM"]
    if not terminal:
        variables = ALONE_WITH_IT.get(name, {}) | variables
    call = Call(name, words, folder if folder and visible(folder) else "", variables, stdin, terminal)
    try:
        if name in SUBMITS and isinstance(way, Machines):
            way.bring(CHECKOUT)
        status = run(way, call)
    except Failure as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return 127
    why = way.explain(name) if status else ""
    if why:
        print(why, file=sys.stderr)
    return status


def attended(number: int) -> bool:
    """Whether a stream may be read from: a terminal stops those of its jobs that do so in the background."""
    try:
        return not os.isatty(number) or os.tcgetpgrp(number) == os.getpgrp()
    except OSError:
        return False


def begin(argv: Sequence[str]) -> NoReturn:
    """For bin/slurm. At once, since what Python does at its end fails where the terminal has gone."""
    status = main(argv)
    sys.stderr.flush()
    os._exit(status)
