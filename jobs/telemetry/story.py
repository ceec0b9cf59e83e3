"""A run as it is told: to people, to the files of its folder, to the watchers of its ranks and to whoever scrapes it.

train.py makes one and calls it after each step; nothing here shapes the weights.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs import config as configuration
from jobs import model
from jobs.cli.errors import Mistake
from jobs.cluster import slurm
from jobs.config import Config
from jobs.data import samples, shards
from jobs.parallel.mesh import Mesh
from jobs.resilience import again, heartbeat, kept
from jobs.resilience.votes import Agreed, Votes
from jobs.telemetry import claim, metrics, restart
from jobs.telemetry import folder as runfolder
from jobs.telemetry.phases import Phases, before_worker
from jobs.telemetry.watch import Watch


class Story:
    """Every method is called by all ranks; the first one's words and files are the run's."""

    def __init__(self, config: Config, ranks: Any, mesh: Mesh, phases: Phases) -> None:
        """Choose the run's folder and begin to watch over the ranks."""
        self.config, self.ranks, self.mesh, self.phases = config, ranks, mesh, phases
        self._config, fixed = configuration.to_yaml(config), config.trajectory()
        self.folder: Path = ranks.decided(
            lambda: claim.take(config.run.folder, self._config, fixed, configuration.MAY_CHANGE)
        )
        self.watch = Watch(ranks, phases.began)
        self.hosts = self.watch.meet(ranks.gathered(self.watch.place))
        self.starts = claim.starts(self.folder)
        if ranks.first:
            claim.link_latest(self.folder)
        self.heart = heartbeat.begin(ranks, config.run.heartbeat_s, self.folder)
        self.say(self._headline())

    def say(self, line: str) -> None:
        if self.ranks.first:
            print(line, flush=True)

    def open(
        self, corpus: Path, windows: int, trained: Any, checkpoints: Any, votes: Votes, step: int
    ) -> None:
        """Go on with the record from `step`, which a checkpoint was loaded from, or from 0. Raises Mistake."""
        if step > self.config.train.steps:
            steps = self.config.train.steps
            raise Mistake(f"train.steps: {steps}, but the run in {self.folder} is at step {step} already")
        if self.ranks.first:
            claim.keep_config(self.folder, self._config)
        self.corpus, self.checkpoints, self.votes = corpus, checkpoints, votes
        self.resumed = self.step = step
        self.first_step_unix = 0.0
        self.before = restart.left(self.folder) if self.ranks.first else None
        path = self.folder / "metrics.jsonl"
        self.record = metrics.Metrics(path, step) if self.ranks.first else None
        if step:  # rank 0 has cut the record, and all judge by the same past
            votes.remember(metrics.read(path) if self.ranks.first else [])
        self.ledger = self._ledger(windows, step)
        self.watch.open(self.folder, self.config, step, trained.ddp, self.phases.began)
        if step:
            self.phases.mark("load")
            self.say(f"resumed from {checkpoints.folder / kept.name(step)}")
            for key, (was, now) in checkpoints.changed.items():
                self.say(f"from here on {key} is {now}; it was {was}")
        self._opened = time.perf_counter()

    # -- the loop ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()
        self.watch.exchange.begin()

    def note(self, step: int, agreed: Agreed, batch: Any) -> None:
        """A step is done: record, ledger, exporter, progress, heartbeat."""
        if agreed.why:
            self.say(f"step {step} skipped: {agreed.why}")
        if self.ledger:
            self.ledger.write(step, batch.numbers)
        step_s = time.perf_counter() - self._began
        line: dict[str, Any] = {
            "step": step,
            "loss": agreed.loss,
            "time": time.time(),
            "tokens_per_s": round(self._tokens / step_s, 1),
            "step_s": round(step_s, 6),
            "data_s": round(batch.waited_s, 6),
            "memory_mib": round(metrics.memory_mib(), 1),
        }
        if agreed.why:
            line["skipped"] = agreed.why
        line |= self.watch.step(line, agreed.joules, sum(self.checkpoints.stall_s))
        if self.record:
            self.record.write(**line)
        self.watch.tell(line)
        self.step = step
        self._progress(line)
        if agreed.ends and self.ranks.first:
            host = self.hosts[0].partition(":")[0]
            heartbeat.note_end(self.folder, agreed.signal, 0, host, step, 0.0)
        self.heart.step(step)

    def save(self, step: int, trained: Any) -> None:
        """Begin a checkpoint, once every step that shaped the weights is in the record to stay."""
        with self.heart.long("save"):
            if self.record:
                self.record.sync()
            if self.ledger:
                self.ledger.sync()
            self.checkpoints.save(step, trained)
        self.votes.saved()

    # -- the end, or a pause -------------------------------------------------------------------------------

    def rest(self) -> None:
        """No more steps: wait for the last checkpoint. What comes may take long."""
        self._train_s = time.perf_counter() - self._opened
        self.phases.mark("train")
        wait = time.perf_counter()
        self.ranks.patient()
        self.heart.rest("end")
        saved = self.checkpoints.finish()
        self._saved = f"saved in {time.perf_counter() - wait:.1f} s" if saved else "NOT saved"
        self.checkpoints.close()
        if self.ledger:
            self.ledger.close()
        self.phases.mark("last_checkpoint")

    def end(self, agreed: Agreed, bits: dict[str, float], report: Callable[[Path], object]) -> None:
        """Sum up, write the report, and ask to be started again where a warning came before the last step."""
        interrupted = self.step < self.config.train.steps
        self.phases.mark("validation")
        (joules,) = self.ranks.agree([self.watch.meter.joules()])
        if self.ranks.first:
            summary = self._summary("interrupted" if interrupted else "completed", bits, joules)
            runfolder.write_json(self.folder / "summary.json", summary)
            if interrupted:
                self.say(
                    f"{agreed.signal}: all {self.ranks.size} ranks agreed to stop after step {self.step}; {self._saved}"
                )
            else:
                report(self.folder)
                self.say(_verdict(summary, self.folder))
        self.ranks.wait()
        self.heart.stop()
        if interrupted and self.ranks.first:
            again.ask(self.folder, leave=not agreed.requeue and "SLIPWAY_ELASTIC" in os.environ)

    # -- what is told --------------------------------------------------------------------------------------

    @property
    def _tokens(self) -> int:
        """Of a step, over all ranks."""
        return self.config.train.batch * self.config.model.context

    def _headline(self) -> str:
        ranks, nodes = self.ranks, len(self.hosts)
        where = "NCCL on GPUs" if ranks.device.type == "cuda" else "gloo on CPU"
        if ranks.simulated:
            where = "GPUs simulated: training on CPU, gloo"
        start = f", start {self.starts + 1}" if self.starts else ""
        how = f", {self.mesh.line()}" if self.mesh.line() else ""
        many, on = "s" if ranks.size > 1 else "", "s" if nodes > 1 else ""
        return f"{self.folder}: {ranks.size} rank{many} on {nodes} node{on}, {where}{how}{start}"

    def _progress(self, line: dict[str, Any]) -> None:
        step, steps = self.step, self.config.train.steps
        first = step == self.resumed + 1
        if first:
            self.first_step_unix = float(line["time"])
            self.phases.mark("first_step")
            self.ranks.hurry()
            if self.ranks.first:
                self._started()
        elif self.before and step == self.before.step:
            seconds = time.time() - self.first_step_unix
            self.say(restart.caught_up(self.folder / "attempts.jsonl", seconds))
        if step % self.config.run.log_every == 0 or step == steps or first:
            self.say(metrics.progress(line, steps, self.watch.allreduce_share))

    def _started(self) -> None:
        """What the run stands on and how long the way here took. After the first step, which need not wait."""
        import numpy
        import torch

        ranks, phases, began = self.ranks, self.phases, self.phases.began
        versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "numpy": numpy.__version__}
        own = model.code(self.config.model)
        found = runfolder.environment(
            self.hosts,
            str(ranks.device),
            self.config.train.seed,
            versions,
            gpu=self.watch.place["gpu"],
            gpus_simulated=ranks.simulated,
            world_size=ranks.size,
            model_code=own and runfolder.code(own),
            data=self.corpus.name,
            data_sha256=shards.checksums(self.corpus),
            diff=runfolder.keep_diff(self.folder / "code.diff"),
        )
        runfolder.write_json(self.folder / "environment.json", found)
        phases.seconds = {**before_worker(began), **phases.seconds}
        attempt: dict[str, Any] = {
            "attempt": self.starts,
            "resumed_from": self.resumed,
            "world_size": ranks.size,
            "first_step_unix": self.first_step_unix,
            "phases": phases.rounded(),
            "stack": found["stack"],
            "code": found["code"],
            "changed": self.checkpoints.changed,
            **self.watch.held,
        }
        self.watch.submitted(attempt)
        told = f"first step: {phases.line()}"
        if self.before:
            requeued = slurm.times().get("SubmitTime")
            fall = restart.waterfall(self.before, phases.seconds, began, self.resumed, requeued)
            attempt["waterfall"] = fall
            told = restart.line(self.starts, fall)
        with (self.folder / "attempts.jsonl").open("a") as file:
            file.write(json.dumps(attempt) + "\n")
        self.say(told)

    def _ledger(self, windows: int, step: int) -> samples.Ledger | None:
        """Of this rank's samples, cut at `step`; of ranks that read the same ones the first keeps it."""
        if not self.config.run.samples:
            return None
        where = self.folder / "samples"
        if self.ranks.first:
            samples.drop(where, step)
        self.ranks.wait()
        at = self.mesh.coordinates(self.ranks.rank)
        if at["tensor"] or at["context"] or at["pipeline"]:
            return None
        facts = {"samples": windows, "seed": self.config.train.seed, "batch": self.config.train.batch}
        return samples.Ledger(where, self.mesh.data_rank(self.ranks.rank), self.mesh.data, facts)

    def _summary(self, state: str, bits: dict[str, float], joules: float) -> dict[str, Any]:
        ranks, checkpoints, interval = self.ranks, self.checkpoints, self.votes.schedule.seconds
        return {
            "run": self.folder.name,
            "state": state,
            "step": self.step,
            "steps": self.config.train.steps,
            "resumed_from": self.resumed,
            "restarts": self.starts,
            "world_size": ranks.size,
            "mesh": asdict(self.mesh),
            "hosts": self.hosts,
            "device": ranks.device.type,
            "gpus_simulated": ranks.simulated,
            "stack": runfolder.stack(),
            "data": self.corpus.name,
            "bits_per_byte": bits,
            "tokens_per_s": round((self.step - self.resumed) * self._tokens / self._train_s, 1),
            "first_step_unix": self.first_step_unix,
            **self.watch.end(state, joules),
            "checkpoint": {
                "bytes": checkpoints.bytes,
                "saves": len(checkpoints.stall_s),
                "stall_s": [round(each, 4) for each in checkpoints.stall_s],
                "write_s": [round(each, 4) for each in checkpoints.write_s],
                "interval_s": interval and round(interval, 1),  # null where steps are given
            },
            "skipped": self.votes.guard.skipped,
            "phases": {**self.phases.rounded(), "checkpoint": round(sum(checkpoints.stall_s), 3)},
        }


def _verdict(summary: dict[str, Any], folder: Path) -> str:
    bits = summary["bits_per_byte"]
    learned = (
        "so it learned" if bits["validation"] < bits["bigram"] else "so it has NOT learned more than pairs"
    )
    return (
        f"{bits['validation']:.2f} bits/byte on validation; a bigram model has {bits['bigram']:.2f}, "
        f"{learned} (unigram {bits['unigram']:.2f})\n"
        f"{metrics.short(summary['tokens_per_s'])} tok/s; checkpoints kept the training waiting for "
        f"{summary['phases']['checkpoint']:.1f} s in all. Report: {folder}/report.html"
    )
