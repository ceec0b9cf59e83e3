"""A rank that died, hangs or was stopped is seen within 5 s and named, with its host and its last step.

Each rank has a thread that writes a line ("beat") into the store where the ranks met, ten times in `run.heartbeat_s`
(4 s). Rank 0's thread reads all of them, the others read rank 0's. The collectives' time-out, a minute, stays behind
it. Two rules, both with the reader's own clock, so that no two machines' clocks are compared:

- *silent*: no new beat for 4 s. The process died, was stopped (SIGSTOP), its node is gone or its memory is swapped
  out. A process on the reader's own host that is gone is not waited for.
- *stuck*: the beats come, but the loop that trains does not go on, for 4 s or four times the longest step so far.
  All ranks stand still then, as they wait for each other; the one to blame has begun the fewest collectives.

What is slow for a good reason is told from that: from the start to the first step (compilation), in a save and in the
validation, a rank is judged by its silence only, and five times as patiently, as a library that it loads or calls may
keep Python's lock and with it the thread (`long`); the end of such a phase is told by a beat at once. While it waits
for a disk (state D) it is not stuck either. While one rank is in such a phase, and for 4 s after it, nobody is. A
reader that was itself asleep (a suspended laptop, a frozen container) judges no one by the time that it missed.

Who sees it says so once, writes `ended.json` in the run's folder, kills the process where it is on its own host, and
all ranks end with exit code 1: whatever started them starts them again (docs/preemption.md).
"""

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobs.cli import files

BEATS = 10  # in the time of silence that makes a rank dead
SLACK = 4  # times the longest step so far, until a loop counts as stuck
PATIENCE = 5  # times the limit, until silence in a long phase counts


@dataclass(frozen=True)
class Beat:
    """What a rank says about itself."""

    number: int
    host: str
    home: str  # the same for processes that can see each other's numbers
    pid: int
    step: int  # the last one that is done
    doing: str
    for_s: float  # how long its main thread has been at it
    allowed_s: float  # how long it may be; 0: as long as it takes
    begun: int  # collectives since the start
    at: str  # where its main thread is, when it has been there for long


@dataclass(frozen=True)
class Lost:
    """A rank that is given up, and why."""

    rank: int
    host: str
    home: str
    pid: int
    step: int
    why: str
    silent_s: float

    def line(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.why}; its last step was {self.step}"


class Judge:
    """Tells from the beats of ranks which one is lost. `alive` says whether a process of this home exists.

    Only one who sees all ranks can tell that one is stuck: it may be waiting for another.
    """

    def __init__(
        self,
        limit_s: float,
        home: str = "",
        now: Callable[[], float] = time.monotonic,
        alive: Callable[[int], bool] = lambda _: True,
        everyone: bool = True,
    ) -> None:
        self.limit_s = limit_s
        self._asleep_s = limit_s / 2  # between two looks
        self._all = everyone
        self._home = home
        self._now = now
        self._alive = alive
        self._before: float | None = None
        self._long_until = now()  # when a rank was last seen in a long phase
        self._seen: dict[int, tuple[int, float]] = {}  # number of the last beat, and when it came

    def look(self, beats: Mapping[int, Beat]) -> Lost | None:
        """To be asked several times in `limit_s`, with the newest beat of each rank."""
        now = self._now()
        missed = now - self._before if self._before is not None else 0.0
        if missed > self._asleep_s:  # I was asleep, and maybe so were they
            self._seen = {rank: (number, at + missed) for rank, (number, at) in self._seen.items()}
        self._before = now
        for rank, beat in beats.items():
            if rank not in self._seen or self._seen[rank][0] != beat.number:
                self._seen[rank] = beat.number, now
        for rank, beat in beats.items():
            if beat.home == self._home and not self._alive(beat.pid):
                return _lost(rank, beat, "its process is gone", now - self._seen[rank][1])
        for rank in sorted(beats, key=lambda each: self._seen[each][1]):
            beat, silent_s = beats[rank], now - self._seen[rank][1]
            if silent_s > self.limit_s * (1 if beat.allowed_s else PATIENCE):
                return _lost(rank, beat, f"silent for {silent_s:.1f} s ({beat.doing})", silent_s)
        if missed > self._asleep_s or not all(beat.allowed_s for beat in beats.values()):
            self._long_until = now
        if not self._all or now - self._long_until < self.limit_s:  # those who waited for it need a moment
            return None
        return self._stuck(beats)

    def _stuck(self, beats: Mapping[int, Beat]) -> Lost | None:
        if not any(beat.for_s > beat.allowed_s for beat in beats.values()):
            return None
        rank = min(beats, key=lambda each: (beats[each].step, beats[each].begun, -beats[each].for_s))
        beat = beats[rank]
        same = [each for each in beats if (beats[each].step, beats[each].begun) == (beat.step, beat.begun)]
        where = f" at {beat.at}" if beat.at else ""
        why = f"stuck for {beat.for_s:.1f} s in a {beat.doing}{where}"
        if len(same) > 1:
            why += f" (as are ranks {', '.join(str(each) for each in same if each != rank)}: none is behind)"
        return _lost(rank, beat, why, beat.for_s)


def _lost(rank: int, beat: Beat, why: str, silent_s: float) -> Lost:
    return Lost(rank, beat.host, beat.home, beat.pid, beat.step, why, round(silent_s, 3))


class Heart:
    """This rank's beats, and its eye on the others. `step` and `long` are the main thread's, and cheap.

    `store`: a connection of its own to the store of all ranks, with keys of this start only; None where nobody is
    to watch. `begun` counts the collectives that this rank has begun.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        limit_s: float,
        store: Any,
        folder: Path,
        begun: Callable[[], int] = lambda: 0,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.rank, self.size, self.limit_s, self.folder = rank, size, limit_s, folder
        self.found: Lost | None = None
        self._store, self._begun, self._end = store, begun, end
        self._host, self._home = platform.node(), home()
        self._number = 0
        self._doing = (0, "start", time.monotonic(), 0.0)  # step, what, since when, how long it may take
        self._longest = 0.0
        self._steps = 0
        self._stopped = threading.Event()
        self._wake = threading.Event()  # a beat is due before its time
        self._thread: threading.Thread | None = None
        self._judge: Judge | None = None
        if store is not None and size > 1 and limit_s:
            self._beat()  # before the others look for it

    def watch(self) -> None:
        """Begin. To be called when every rank has made its Heart: a barrier is between."""
        if self._number:
            self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
            self._thread.start()

    def step(self, step: int) -> None:
        """Another step is done. The first of a start may take as long as it likes."""
        now = time.monotonic()
        if self._steps and self._doing[1] == "step":
            self._longest = max(self._longest, now - self._doing[2])
        self._steps += 1
        patient, self._doing = (
            not self._doing[3],
            (step, "step", now, max(self.limit_s, SLACK * self._longest)),
        )
        if patient:
            self._wake.set()

    @contextlib.contextmanager
    def long(self, name: str) -> Iterator[None]:
        """Something that may take long, and in which only silence counts."""
        step, doing, since, allowed_s = self._doing
        begin = time.monotonic()
        self._doing = (step, name, begin, 0.0)
        yield  # when it fails, what it was doing stays
        self._doing = (step, doing, since + time.monotonic() - begin, allowed_s)
        self._wake.set()  # whoever stops now is not to be waited for as if it were still at that

    def rest(self, name: str) -> None:
        """From here on everything may take long."""
        self._doing = (self._doing[0], name, time.monotonic(), 0.0)

    def stop(self) -> None:
        """No more beats, and nobody is watched: all ranks are at the end."""
        self.quiet()
        if self._thread:
            self._thread.join(self.limit_s)

    def quiet(self) -> None:
        """No more beats, without waiting for the thread."""
        self._stopped.set()
        self._wake.set()

    def last_words(self, why: str) -> None:
        """This rank ends for a reason of its own: the others need not find out by its silence."""
        if self._thread and not self._stopped.is_set():
            beat = self._now()
            with contextlib.suppress(Exception):  # the store may be what is gone
                self._tell(Lost(self.rank, beat.host, beat.home, beat.pid, beat.step, why, 0.0))
            self._stopped.set()

    def explain(self, warned: Callable[[], bool]) -> None:
        """Called when a collective broke: waits for the thread to find out whose fault it is and end this process.

        A broken connection is a sign of its own, so a fourth of the silence is enough. Returns when that is not found
        in `limit_s` + 1 s, or when the launcher asks for an end: then it knows already.
        """
        if self._judge:
            self._judge.limit_s = self.limit_s / 4
        end = time.monotonic() + self.limit_s + 1
        self._doing = (self._doing[0], "broken collective", time.monotonic(), self.limit_s)
        while self._thread and time.monotonic() < end and not warned():
            self._thread.join(0.1)
            if not self._thread.is_alive():
                return

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        first = self.rank == 0
        judge = self._judge = Judge(self.limit_s, self._home, alive=alive, everyone=first)
        watched = [str(rank) for rank in range(self.size)] if first else ["0"]
        unreachable_since: float | None = None
        while not self._pause():
            try:
                self._beat()
                if self._store.check(["lost"]):
                    self._give_up(Lost(**json.loads(self._store.get("lost"))))
                    return
                beats = [Beat(**json.loads(text)) for text in self._store.multi_get(watched)]
                unreachable_since = None
            except Exception as error:
                now = time.monotonic()
                unreachable_since = unreachable_since or now
                if now - unreachable_since > self.limit_s and not self._stopped.is_set():
                    where = os.environ.get("MASTER_ADDR", "rank 0's host")
                    step = self._doing[0]
                    why = (
                        f"the store of all ranks is gone, and with it maybe the node ({type(error).__name__})"
                    )
                    self._give_up(Lost(0, where, "", 0, step, why, now - unreachable_since), tell=True)
                    return
                continue
            lost = judge.look(dict(zip(map(int, watched), beats, strict=True)))
            if lost and not self._stopped.is_set():
                # A beat may be old, and a step that is done here had its part from every rank.
                lost = replace(lost, step=max(lost.step, self._doing[0]))
                self._give_up(lost, tell=self._tell(lost))
                return

    def _pause(self) -> bool:
        """Wait until the next beat is due. Returns whether it is the end."""
        self._wake.wait(self.limit_s / BEATS)
        self._wake.clear()
        return self._stopped.is_set()

    def _beat(self) -> None:
        self._number += 1
        self._store.set(str(self.rank), json.dumps(asdict(self._now())))

    def _now(self) -> Beat:
        step, doing, since, allowed_s = self._doing
        for_s = time.monotonic() - since
        late = bool(allowed_s) and for_s > allowed_s / 2
        if late and _main_thread_state() == "D":
            doing, allowed_s = "wait for a disk", 0.0
        return Beat(
            number=self._number,
            host=self._host,
            home=self._home,
            pid=os.getpid(),
            step=step,
            doing=doing,
            for_s=round(for_s, 3),
            allowed_s=round(allowed_s, 3),
            begun=self._begun(),
            at=_main_thread_place() if late else "",
        )

    def _tell(self, lost: Lost) -> bool:
        """Put it where all ranks look. False when another rank was faster."""
        mine = json.dumps(asdict(lost))
        won = self._store.compare_set("lost", "", mine)
        return bool((won if isinstance(won, str) else won.decode()) == mine)

    def _give_up(self, lost: Lost, tell: bool = False) -> None:
        self.found = lost
        if tell:
            print(f"{lost.line()}. This start ends; the next goes on from the last checkpoint", flush=True)
            note_end(self.folder, lost.why, lost.rank, lost.host, lost.step, lost.silent_s)
            time.sleep(2 * self.limit_s / BEATS)  # the others look once more before the store may be gone
        if lost.home == self._home and lost.pid != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(lost.pid, signal.SIGKILL)  # a stopped process would not follow SIGTERM
        sys.stdout.flush()
        self._end(1)


_hearts: list[Heart] = []  # of this process, the newest last: for its last moments


def last_words(why: str) -> None:
    """Of this process's heart, if it has one."""
    for heart in _hearts[-1:]:
        heart.last_words(why)


def silence() -> None:
    """All ranks end for the same reason, and each says so itself."""
    for heart in _hearts[-1:]:
        heart.quiet()


def explain(warned: Callable[[], bool]) -> None:
    """By this process's heart, if it has one."""
    for heart in _hearts[-1:]:
        heart.explain(warned)


def begin(ranks: Any, limit_s: float, folder: Path) -> Heart:
    """The heart of this process, beating. Called by all ranks."""
    store: Any = None
    if ranks.size > 1 and limit_s:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import _world

        from jobs.parallel import versions

        name = ranks.told(str(time.time_ns()))  # torchrun's store lives on when workers are started again
        store = dist.PrefixStore(f"heartbeat-{name}", versions.connection(limit_s))

    def begun() -> int:
        groups = [group for group in list(_world.pg_map) if group is not ranks.background]
        try:
            return sum(group._get_sequence_number_for_group() for group in groups)
        except RuntimeError:  # a backend that does not count: then steps alone say who is behind
            return 0

    heart = Heart(ranks.rank, ranks.size, limit_s, store, folder, begun)
    _hearts.append(heart)
    if store is not None:
        ranks.wait()
        heart.watch()
    return heart


def from_a_peer(error: BaseException) -> bool:
    """Whether an error says only that another rank is gone. gloo has no type of its own for that."""
    text = str(error)
    return any(
        word in text for word in ("gloo", "Connection closed", "Connection reset", "NCCL", "Broken pipe")
    ) or type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")


def note_end(folder: Path, why: str, rank: int, host: str, step: int, silent_s: float) -> None:
    """Leave for the next start when and why this one ended; a full disk costs only that."""
    facts = {"unix": time.time(), "why": why, "rank": rank, "host": host, "step": step, "silent_s": silent_s}
    with contextlib.suppress(OSError):
        files.put(folder / "ended.json", json.dumps(facts) + "\n")


def home() -> str:
    """Host and namespace of process numbers."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{platform.node()} {os.getpid()}"  # sees only itself


def alive(pid: int) -> bool:
    """Whether a process of this home exists and is no zombie."""
    try:
        return _state(Path(f"/proc/{pid}/stat")) not in ("Z", "X")
    except OSError:
        return False


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]


def _main_thread_state() -> str:
    try:
        return _state(Path(f"/proc/self/task/{os.getpid()}/stat"))
    except OSError:
        return ""


def _main_thread_place() -> str:
    """The innermost line of this project's code that the main thread is in, else the innermost one."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame and "/jobs/" not in frame.f_code.co_filename:
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"
