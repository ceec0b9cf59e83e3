"""What a measurement says: figures (jobs/bench/figure.py), phases, method."""

from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.bench.figure import Figure, shown

__all__ = ["Figure", "Result", "phases_line", "shown"]


@dataclass(frozen=True)
class Result:
    """What one command of `python -m infra bench` has measured. `phases` are seconds, in order."""

    name: str
    method: str
    figures: list[Figure]
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def command(self) -> str:
        return f"python -m infra bench {self.name}"

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        figures = [{**asdict(each), "reached": each.reached} for each in self.figures]
        return {**asdict(self), "command": self.command, "figures": figures}

    def lines(self) -> list[str]:
        """As a terminal shows it."""
        told = [figure.line() for figure in self.figures]
        if self.phases:
            told.append(phases_line(self.phases))
        return [*told, f"({self.method})"]


def phases_line(phases: dict[str, float]) -> str:
    """`detection 15.2 s · requeue 31.0 s`; phases too short to show are left out."""
    return " · ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items() if seconds >= 0.05)
