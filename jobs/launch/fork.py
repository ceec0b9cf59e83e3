"""Programs that are forked from a process which has imported torch already, and so begin at once.

    server = ForkServer.here(("torch._dynamo",))              # a copy of this process, as it is now
    process = server.popen([sys.executable, "-u", "-m", "jobs.train"], start_new_session=True)

Importing torch takes more than a second of a core, at every start and restart of every rank. jobs/torchrun.py has
imported it anyway, so it keeps a copy of itself from that moment, the server, which does nothing but fork. What it
forks is to be told from a fresh `python -u -m MODULE` by nothing but its age: a session, an environment, descriptors,
signals, `__main__` and `sys.argv` of its own, and Python's own end (atexit, flushed files), as it is the whole process
that ends. `ps` shows its own command line, too; only /proc/PID/environ remains that of the agent.

A fork is safe only where nobody else is in the process: another thread may hold a lock that nobody gives back in the
copy, and CUDA does not work in one. So the server is made before torchrun has threads (its store, its watchers) or
sockets, and a fresh start is taken, by facts and not by hope:

- where this process has more than one thread, or CUDA is initialised, or the system is not Linux (`unsafe`);
- for a program that is not of this checkout's packages: it may set variables that torch reads when it is imported
  (OMP_NUM_THREADS, TORCH_LOGS, ...), and must find torch not imported (`can_run`);
- for another python, `--no-python`, `--run-path`, and where numactl stands before the command (`--numa-binding`);
- where the server is gone, or cannot fork;
- where SLIPWAY_FORK=0 says so.

A program is no child of the server but of the process that asked, which can wait for it and learns its exit code as
of any child: the server forks twice, and who asks adopts the orphan (PR_SET_CHILD_SUBREAPER).
"""

import builtins
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

OURS = ("jobs", "tests.jobs")  # packages whose programs set nothing that torch would read when it is imported
HELD = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
}  # not for the server, which ends with its agent
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


class Gone(OSError):
    """The server cannot fork: a fresh start is to be taken."""


def unsafe() -> str:
    """Why this process must not be forked; empty when it may be."""
    if os.environ.get("SLIPWAY_FORK") == "0":
        return "SLIPWAY_FORK=0"
    if sys.platform != "linux":
        return f"the system is {sys.platform}"
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"it has {threads} threads"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is initialised"
    return ""


def can_run(command: Sequence[str]) -> bool:
    """Whether a command line is that of a program which may find torch imported."""
    if len(command) < 4 or command[0] != sys.executable or tuple(command[1:3]) != ("-u", "-m"):
        return False
    return command[3].startswith(tuple(f"{package}." for package in OURS))


class ForkServer:
    """The process that forks, as its owner sees it. `popen` may be called until `close`."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel, self.pid = channel, pid
        self._ready = False
        self._lock = threading.Lock()

    @classmethod
    def here(cls, preload: Sequence[str] = ()) -> "ForkServer | None":
        """A copy of this process, which then imports what is named; None where a fork is not safe.

        Returns in this process only. In what the copy forks, SystemExit passes through the caller.
        """
        if unsafe():
            return None
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for number in [int(each.name) for each in Path("/proc/self/fd").iterdir()]:
                if number > 2 and number != theirs.fileno():
                    with contextlib.suppress(OSError):  # the one that the folder was read by
                        os.close(number)
            _serve(theirs, preload)
        theirs.close()
        return cls(ours, pid)

    @classmethod
    def fresh(cls, preload: Sequence[str]) -> "ForkServer":
        """A process of its own, for a process that must not be forked, such as pytest."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), *preload]
        environment = {
            "OMP_NUM_THREADS": "1",
            **os.environ,
        }  # as torchrun has it, and none of numpy's threads
        started = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        started.returncode = 0  # it is waited for by `close`, not by subprocess
        theirs.close()
        return cls(ours, started.pid)

    def popen(self, command: Sequence[str], **named: Any) -> "subprocess.Popen[Any]":
        """As subprocess.Popen, for a command that `can_run`. Raises Gone where the server cannot fork."""
        return _Forked(self, command, **named)

    def close(self) -> None:
        """The server ends; what it forked does not."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def start(self, task: dict[str, Any], descriptors: Sequence[int]) -> int:
        """Let it fork; the process number of what is this process's child then."""
        with self._lock:
            try:
                if not self._ready:  # asked for before anything is under way that an interrupt could lose
                    self._answer()
                    self._ready = True
                body = json.dumps(task).encode()
                _adopt(True)
                socket.send_fds(self._channel, [len(body).to_bytes(8)], descriptors)
                self._channel.sendall(body)
                answer = self._answer()
            except BaseException as error:
                self._channel.close()  # an answer may still come, and is not that to the next question
                if not isinstance(error, OSError | EOFError):
                    raise
                raise Gone(f"the fork server is gone ({type(error).__name__})") from error
            finally:
                with contextlib.suppress(OSError):
                    _adopt(False)
        if "pid" not in answer:
            raise Gone(f"the fork server cannot fork ({answer['error']})")
        return int(answer["pid"])

    def _answer(self) -> dict[str, Any]:
        body = _exactly(self._channel, int.from_bytes(_exactly(self._channel, 8)))
        found: dict[str, Any] = json.loads(body)
        return found


class _Forked(subprocess.Popen[Any]):
    """subprocess.Popen, whose child comes from a server. Only what the options of `_execute_child` used here say."""

    def __init__(self, server: ForkServer, command: Sequence[str], **named: Any) -> None:
        self._server = server
        super().__init__(command, **named)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        """In place of Popen's own, which forks and executes; the arguments are those of Python 3.11 to 3.14."""
        (_, _, _, _, cwd, env, _, _, _, reads, _, _, writes, _, errors) = rest[:15]
        new_session = rest[20]
        task = {
            "command": [os.fspath(word) for word in args],
            "cwd": os.fspath(Path.cwd() / (cwd or "")),
            "environment": dict(os.environ if env is None else env),
            "new_session": bool(new_session),
            "blocked": [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        }
        standard = [given if given != -1 else usual for usual, given in enumerate((reads, writes, errors))]
        self.pid = self._server.start(task, standard)
        self._child_created = True
        self._close_pipe_fds(*rest[9:15])  # type: ignore[attr-defined]


def _adopt(on: bool) -> None:
    """Whether children of children become this process's own when their parent ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, int(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _exactly(channel: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = channel.recv(count - len(found))
        if not part:
            raise EOFError
        found += part
    return found


# -- the server ----------------------------------------------------------------------------------------------


def _serve(channel: socket.socket, preload: Sequence[str]) -> NoReturn:
    """Fork as asked for, until the owner is gone. Leaves by SystemExit, in the program that was forked."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, HELD
    )  # blocked, not ignored: what is forked gets what came meanwhile
    try:
        gc.disable()
        for name in preload:
            importlib.import_module(name)
        gc.freeze()  # what is there stays; the copies do not touch its pages
        gc.enable()
        if why := unsafe():
            raise RuntimeError(f"not safe to fork: {why}")
        _tell(channel, {})
        while True:
            header, descriptors, _, _ = socket.recv_fds(channel, 8, 3)
            if not header:
                os._exit(0)
            task = json.loads(_exactly(channel, int.from_bytes(header + _exactly(channel, 8 - len(header)))))
            if _fork(channel, task, descriptors):
                break
    except EOFError:
        os._exit(0)
    except BaseException as error:
        print(f"fork server: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    _begin(task)


def _fork(channel: socket.socket, task: dict[str, Any], descriptors: list[int]) -> bool:
    """Whether this is the program, and no more the server."""
    heard, told = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        _tell(channel, {"error": str(error)})
        for number in (heard, told, *descriptors):
            os.close(number)
        return False
    if between == 0:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)
        if task["new_session"]:
            os.setsid()
        os.write(told, str(os.getpid()).encode())
        for usual, number in enumerate(descriptors):
            os.dup2(number, usual)
        for number in (heard, told, *descriptors):
            os.close(number)
        channel.close()
        return True
    for number in (told, *descriptors):
        os.close(number)
    pid = os.read(heard, 32)  # once it leads its session, so that a signal to its group finds it
    os.close(heard)
    os.waitpid(between, 0)  # from here on it is the owner's child
    _tell(channel, {"pid": int(pid)} if pid else {"error": "no more processes"})
    return False


def _tell(channel: socket.socket, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    channel.sendall(len(body).to_bytes(8) + body)


# -- what was forked -----------------------------------------------------------------------------------------


def _begin(task: dict[str, Any]) -> NoReturn:
    """Be `python -u -m MODULE ...`, from its first line to its last."""
    command: list[str] = task["command"]
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["environment"])
    time.tzset()
    _open_streams()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # the server's state is everybody's; torch's seed is a constant
    tempfile.tempdir = None  # by this environment
    _show(command)
    sys.orig_argv = list(command)
    sys.argv = ["-m", *command[4:]]
    sys.path[0] = os.fspath(Path.cwd())
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    # Last, so that a signal finds what is to be ended, and not something between the two.
    signal.pthread_sigmask(signal.SIG_SETMASK, task["blocked"])
    try:
        runpy._run_module_as_main(command[3])  # type: ignore[attr-defined]  # what -m does
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None
    raise SystemExit(0)


def _open_streams() -> None:
    """sys.stdin, sys.stdout and sys.stderr as `-u` makes them: what is written is out at once."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old, raw = getattr(sys, name), io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer: Any = io.BufferedReader(raw) if mode == "r" else raw
        newline = None if mode == "r" else "\n"
        new: Any = io.TextIOWrapper(buffer, old.encoding, old.errors, newline, write_through=True)
        new.mode = mode
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _show(command: Sequence[str]) -> None:
    """Let `ps` and /proc/PID/cmdline show this command line, as far as there is room for it."""
    with contextlib.suppress(OSError, ValueError):
        begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
        words = b"".join(os.fsencode(word) + b"\0" for word in command)
        if 0 < begin < end and len(words) <= end - begin:
            ctypes.memmove(begin, words.ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
