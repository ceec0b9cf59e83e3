"""The server: weights and optimiser, a thread for each worker, checkpoints at the ends of steps.

With staleness 0 the gradients of a step's parts are averaged in the order of the parts and applied as one, as DDP
does. Otherwise each is applied when it comes: a step of `parts` smaller updates, each at the step's learning rate
divided by `parts`, clipped by itself.

Before a checkpoint no ticket of a later step is handed out until the last of the steps before is whole. So a
checkpoint is that of a step, as in training, and any number of workers can go on from it.
"""

import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from jobs.cli.errors import Failure
from jobs.model import optim
from jobs.paramserver import wire
from jobs.paramserver.config import Config
from jobs.paramserver.tickets import Ticket, Tickets
from jobs.paramserver.worker import flat, numbers, pieces
from jobs.resilience import signals
from jobs.resilience.checkpoint import Checkpoints
from jobs.telemetry import metrics
from jobs.trainable import Trainable


@dataclass
class Record:
    """What came of the tickets. `staleness`: updates between the weights that a gradient is of and its own."""

    staleness: Counter[int] = field(default_factory=Counter)
    lead: int = 0  # the most steps that workers were apart
    tickets: Counter[str] = field(default_factory=Counter)  # of each worker
    lost: list[str] = field(default_factory=list)  # workers that died

    def facts(self, updates: int) -> dict[str, Any]:
        """As summary.json has it."""
        count = sum(self.staleness.values())
        return {
            "updates": updates,
            "staleness_mean": sum(age * many for age, many in self.staleness.items()) / count
            if count
            else 0.0,
            "staleness_max": max(self.staleness, default=0),
            "staleness": {str(age): many for age, many in sorted(self.staleness.items())},
            "lead_max": self.lead,
            "tickets": dict(sorted(self.tickets.items())),
            "workers_lost": self.lost,
        }


@dataclass
class Step:
    """A step that is not whole yet."""

    losses: dict[int, float] = field(default_factory=dict)
    gradients: dict[int, torch.Tensor] = field(default_factory=dict)  # kept with staleness 0 only
    data_s: float = 0.0
    staleness: list[int] = field(default_factory=list)


class Server:
    """Serves the steps from `first` on. `run` is for the main thread; every other method is its threads' own."""

    def __init__(
        self,
        config: Config,
        trained: Trainable,
        record: metrics.Metrics,
        checkpoints: Checkpoints,
        first: int,
        parts: int,
        digest: bytes,
        expected: int,
    ) -> None:
        """`expected`: workers that were started with this server; others may come."""
        self.config, self.trained, self.checkpoints, self.digest = config, trained, checkpoints, digest
        self.told = Record()
        self.updates = 0
        self.step = first  # steps that are whole, up to which metrics.jsonl goes
        self.tickets = Tickets(first, self._next_stop(first), parts, config.server.staleness)
        self.first_step_unix = 0.0
        self._metrics = record
        self._parameters = list(trained.model.parameters())
        self._count = sum(each.numel() for each in self._parameters)
        self._weights: tuple[int, torch.Tensor] | None = None  # a copy of this version
        self._steps: dict[int, Step] = {}
        self._workers: set[str] = set()
        self._expected, self._greeted = expected, 0
        self._since = self._heard = time.monotonic()  # the last whole step; the last sign of a worker
        self._ending = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def run(self, listener: socket.socket, warnings: signals.Warnings) -> int:
        """Serve until the last step, or a warning. Returns the step that was saved. Raises Failure."""
        threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()
        self._since = self._heard = time.monotonic()
        with self._changed:
            if self.step == self.config.train.steps:  # it was completed before: workers only have to be told
                self._ending = True
                return self.step
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._failure or self.step >= self.tickets.last, timeout=0.2)
                if self._failure:
                    raise self._failure
                if warnings.got and not self._ending:
                    self._ending = True
                    self.tickets.extend(0)  # what was begun is ended, nothing else is begun
                self._anybody()
                if self.step < self.tickets.last:
                    continue
                at = self.step
                self._metrics.sync()
                self.checkpoints.save(at, self.trained)  # copies the state; nobody changes it meanwhile
                if self._ending or at == self.config.train.steps:
                    self._ending = True
                    self._changed.notify_all()
                    return at
                self.tickets.extend(self._next_stop(at))
                self._changed.notify_all()

    def goodbye(self, within_s: float) -> None:
        """Wait until the workers were told that it is the end, those as well that were slow to start."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._greeted >= self._expected and not self._workers, timeout=within_s
            )

    def _next_stop(self, step: int) -> int:
        every = self.config.checkpoint.every
        return min(self.config.train.steps, step - step % every + every) if every else self.config.train.steps

    def _anybody(self) -> None:
        """Raise Failure when there is nobody to work and nobody has come for a while."""
        if self._workers:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > self.config.run.peer_timeout_s:
            raise Failure(
                f"no worker for {self.config.run.peer_timeout_s} s, after step {self.step}; "
                "start the same command again to go on from the last checkpoint"
            )

    # -- a worker's thread -------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                end, (host, *_) = listener.accept()
            except OSError:  # the listener was closed: the end
                return
            threading.Thread(
                target=self._serve, args=(end, host), name=f"worker at {host}", daemon=True
            ).start()

    def _serve(self, end: socket.socket, host: str) -> None:
        """One worker, from its hello to its end."""
        silent_s = self.config.run.peer_timeout_s
        with end:
            try:
                end.settimeout(silent_s)
                wire.tune(end, silent_s)
                digest, name = wire.receive_hello(end)
                if digest != self.digest:
                    wire.send_refusal(end, "it has another model, other data or other options of training")
                    return
            except OSError:
                return
            with self._changed:
                self._workers.add(name)
                self._greeted += 1
                print(f"worker {name} came; {len(self._workers)} at work", flush=True)
                self._changed.notify_all()
            try:
                self._work(end, name)
            except OSError as error:
                self._lost(name, error)
            except BaseException as error:  # the disk is full, a bug: the main thread ends the run with it
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
            finally:
                with self._changed:
                    self._workers.discard(name)
                    self._changed.notify_all()

    def _work(self, end: socket.socket, name: str) -> None:
        gradient = torch.empty(self._count)
        while True:
            given = self._give(name)
            if given is None:
                wire.send_end(end)
                return
            ticket, version, weights = given
            wire.send_ticket(end, ticket, self.tickets.parts, version, numbers(weights))
            result = wire.receive_result(end, numbers(gradient))
            if result.ticket != ticket or result.version != version:
                raise wire.Closed(f"brought {result.ticket} for {ticket}")
            with self._changed:
                self._take(name, result, gradient)
                self._changed.notify_all()

    def _give(self, name: str) -> tuple[Ticket, int, torch.Tensor] | None:
        """The next ticket, when it may be started, with the weights as they are then; None: it is the end."""
        with self._changed:
            while True:
                ticket = self.tickets.take(name)
                if ticket:
                    break
                if self._failure or (self._ending and self.step >= self.tickets.last):
                    return None
                self._changed.wait()
            self.told.lead = max(self.told.lead, self.tickets.lead)
            if self._weights is None or self._weights[0] != self.updates:
                self._weights = (self.updates, flat(self._parameters))
            return ticket, *self._weights

    def _lost(self, name: str, error: OSError) -> None:
        with self._changed:
            ticket = self.tickets.lost(name)
            self.told.lost.append(name)
            left = len(self._workers) - 1
            had = f"; part {ticket.part} of step {ticket.step + 1} goes to another" if ticket else ""
            print(f"worker {name} is lost ({error}){had}; {left} left", flush=True)

    # -- what comes in; the lock is held --------------------------------------------------------------------------

    def _take(self, name: str, result: wire.Result, gradient: torch.Tensor) -> None:
        """Count a result: apply its gradient, or keep it until its step is whole."""
        at, part = result.ticket.step, result.ticket.part
        step = self._steps.setdefault(at, Step())
        step.losses[part] = result.loss
        step.data_s += result.data_s
        age = self.updates - result.version
        step.staleness.append(age)
        self.told.staleness[age] += 1
        self.told.tickets[name] += 1
        if self.config.server.staleness == 0:
            step.gradients[part] = gradient / self.tickets.parts  # as DDP: first divided, then added
            if len(step.gradients) == self.tickets.parts:
                self._apply(sum(step.gradients[each] for each in range(self.tickets.parts)), at, 1.0)
        else:
            self._apply(gradient, at, 1 / self.tickets.parts)
        whole = self.tickets.done(name)
        if whole:  # without a bound a late part may make many steps whole at once
            now = time.monotonic()
            each_s, self._since = (now - self._since) / len(whole), now
            for one in whole:
                self._tell(one, self._steps.pop(one), each_s)
                self.step = one + 1

    def _apply(self, gradient: Any, at: int, share: float) -> None:
        """One update of the optimiser, at `share` of the learning rate of step `at`."""
        for parameter, part in zip(self._parameters, pieces(gradient, self._parameters), strict=True):
            parameter.grad = part.to(parameter.device, copy=True)
        rate = optim.set_rate(self.trained.optimizer, self.config.train, at)
        if share != 1.0:
            for group in self.trained.optimizer.param_groups:
                group["lr"] = rate * share
        self.trained.clip(self.config.train.clip)
        self.trained.step()
        self.updates += 1

    def _tell(self, at: int, step: Step, step_s: float) -> None:
        """A line of metrics.jsonl for a step that is whole. `data_s`: the workers' waits, of all their time."""
        tokens = self.config.train.batch * self.config.model.context
        line = {
            "step": at + 1,
            "loss": sum(step.losses[part] for part in sorted(step.losses)) / len(step.losses),
            "time": time.time(),
            "tokens_per_s": round(tokens / step_s, 1),
            "step_s": round(step_s, 6),
            "data_s": round(step.data_s / max(1, len(self._workers)), 6),
            "memory_mib": round(metrics.memory_mib(), 1),
            "staleness": sum(step.staleness) / len(step.staleness),
            "workers": len(self._workers),
        }
        self._metrics.write(**line)
        self.first_step_unix = self.first_step_unix or time.time()
        if (at + 1) % self.config.run.log_every == 0 or at + 1 == self.config.train.steps:
            print(metrics.progress(line, self.config.train.steps), flush=True)
