"""For test_fork.py: a program that says how it finds itself, and ends as it is told."""

import contextlib
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.resilience import signals


def told() -> str:
    return "by a function of __main__"


def facts() -> dict[str, Any]:
    """What a program can tell of the process that it is in, but numbers and times."""
    process = Path("/proc/self")
    main = sys.modules["__main__"]
    streams: list[Any] = [sys.stdin, sys.stdout, sys.stderr]
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "command": [word for word in (process / "cmdline").read_text().split("\0") if word],
        "path": sys.path,
        "main": [main.__name__, main.__file__, main.__spec__ and main.__spec__.name, __name__],
        "pickled": pickle.loads(pickle.dumps(told))(),
        "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
        "folder": os.fspath(Path.cwd()),
        "environment": dict(os.environ),
        # Of the descriptors, only those that are open for longer than it takes to look.
        "descriptors": sorted(each.name for each in list((process / "fd").iterdir()) if each.exists()),
        "signals": [status[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")],
        "threads": [thread.name for thread in threading.enumerate()],
        "streams": [
            (
                stream.name,
                stream.mode,
                stream.encoding,
                stream.errors,
                stream.line_buffering,
                stream.write_through,
            )
            for stream in streams
        ],
        "modules": [name for name in ("torch", "torch._dynamo") if name in sys.modules],
        "umask": os.umask(0o022),
        "affinity": sorted(os.sched_getaffinity(0)),
    }


def main(arguments: Sequence[str]) -> int:
    how, *words = arguments
    if how == "facts":
        print(json.dumps(facts()))
    elif how == "exit":
        return int(words[0])
    elif how == "say":
        sys.exit(words[0])
    elif how == "raise":
        raise ValueError(words[0])
    elif how == "unfinished":
        kept.append(Path(words[0]).open("w"))  # noqa: SIM115
        kept[0].write("never flushed, never closed")
        print("no line end", end="")
        threading.Timer(0.2, print, [", and a thread"]).start()
    elif how == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    elif how == "wait":
        print("waits", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(60)
    elif how == "save":
        warnings = signals.Warnings()
        warnings.listen()
        print("waits", flush=True)
        while not warnings.got:
            time.sleep(0.02)
        time.sleep(float(words[0]))
        Path(words[1]).touch()
    elif how == "read":
        print(sys.stdin.read().upper(), end="")
    return 0


kept: list[Any] = []

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
