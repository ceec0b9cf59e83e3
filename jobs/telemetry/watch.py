"""What a run is watched with: the figures of each step beside its loss, and everyone who is told of them.

train.py makes one before its loop and calls it before and after each step. What is not measured is null.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.cluster import node
from jobs.config import Config
from jobs.model import of
from jobs.telemetry import energy, flops, goodput
from jobs.telemetry import folder as runfolder
from jobs.telemetry.exchange import Exchange
from jobs.telemetry.exporter import Exporter


class Watch:
    """This rank's part; the first rank's lines are the run's."""

    def __init__(self, ranks: Any, began: float) -> None:
        """began: Unix time of this start, for energy that is estimated."""
        self.ranks, self.node = ranks, node.read()
        self.gpu = ranks.device.type == "cuda"
        first_here = ranks.local_rank == 0
        gpus, cpus = ranks.local_size if self.gpu else 0, node.cpus_here()
        share = self.node.share(cpus, gpus)
        self.meter = energy.meter(
            first_here=first_here,
            gpu=energy.uuid(ranks.device),
            watts=self.node.watts(share),
            began=began,
        )
        price = self.node.usd_per_hour
        # What the first rank needs to know of this one's machine.
        self.place: dict[str, Any] = {
            "host": runfolder.host(),
            "energy": self.meter.source,
            "answers": first_here,  # for its machine
            "hardware": self.node.hardware,
            "cpus": cpus,
            "gpus": gpus,
            "usd_per_hour": None if price is None else price * share,
            "gpu": self._name() if self.gpu else None,
        }

    def meet(self, places: Sequence[Mapping[str, Any]]) -> list[str]:
        """Take every rank's place. Returns the hosts, each once."""
        machines = [place for place in places if place["answers"]]
        prices = [place["usd_per_hour"] for place in machines]
        self.energy = energy.joined([place["energy"] for place in places])
        # What this start holds: kept in attempts.jsonl.
        self.held = {
            "cpus": sum(place["cpus"] for place in machines),
            "gpus": sum(place["gpus"] for place in machines),
            "hardware": sorted({place["hardware"] for place in machines if place["hardware"]}),
            "usd_per_hour": None if None in prices else round(sum(prices), 6),
            "energy": self.energy,
        }
        return list(dict.fromkeys(place["host"] for place in places))

    def open(self, folder: Path, config: Config, step: int, ddp: Any, began: float) -> None:
        """Before the loop, once the record is at `step`. ddp: what `Exchange` measures, or None."""
        self.stalled = 0.0
        name = self.place["gpu"] or "cpu"
        self.peak = flops.peak(name, config.compute.precision, self.node.peak_tflops)
        # Asked only where it is used: counting takes seconds, for a model that has no formula.
        self.per_token = of(config.model).flops_per_token(config.model) if self.peak else 0.0
        self.exchange = Exchange(ddp, self.ranks.size, config.run.profile_every)
        self.goodput = goodput.Live(folder, began) if self.ranks.first else None
        self.folder = folder
        self.allreduce_share: float | None = None  # the newest that was measured
        self.told: list[Any] = [Exporter(folder.name)] if self.ranks.local_rank == 0 else []
        if config.run.tensorboard and self.ranks.first:
            from jobs.telemetry.board import Board

            self.told.append(Board(folder, step))

    def step(self, line: Mapping[str, Any], joules: float, stalled_s: float) -> dict[str, Any]:
        """A step's figures. joules: of all ranks since their start; stalled_s: by checkpoints since then."""
        speed, ranks = line["tokens_per_s"], self.ranks.size
        mfu = flops.mfu(speed, self.per_token, self.peak, ranks) if self.peak else None
        share = self.exchange.end(line["step_s"])
        self.allreduce_share = self.allreduce_share if share is None else share
        stall, self.stalled = stalled_s - self.stalled, stalled_s
        kept = self.goodput.step(line["step_s"], line["time"]) if self.goodput else None
        return {
            "mfu": None if mfu is None else round(mfu, 4),
            "allreduce_share": None if share is None else round(share, 4),
            "checkpoint_s": round(stall, 6),  # between the step before and this one
            "goodput": None if kept is None else round(kept, 4),
            "joules": round(joules, 1) if self.energy else None,
        }

    def submitted(self, attempt: Mapping[str, Any]) -> None:
        """What attempts.jsonl gets: only now it is known how long the run had waited before it began."""
        if self.goodput:
            self.goodput.submitted(attempt)

    def tell(self, line: Mapping[str, Any]) -> None:
        """What programs are told is figures: a step that was skipped is 1, for what reason the record says."""
        figures = {**line, "skipped": int(bool(line.get("skipped")))}
        for one in self.told:
            one.show(figures)

    def end(self, state: str, joules: float) -> dict[str, Any]:
        """The first rank notes an orderly end. joules: of all ranks, now. Returns what the run cost so far."""
        goodput.end(self.folder, state, joules if self.energy else None)
        for one in self.told[1:]:
            one.close()
        account = goodput.read(self.folder)
        return {
            "goodput": account.goodput,
            "joules": account.joules,
            "energy": account.energy,
            "usd": account.usd,
        }

    def _name(self) -> str:
        import torch

        name: str = torch.cuda.get_device_name(self.ranks.device)
        return name
