"""A figure beside its limit or goal, and what a measurement says: figures, phases, method."""

from dataclasses import asdict, dataclass, field
from typing import Any

COSTS = ("s", "ms", "MiB", "GB")  # units of which less is better


@dataclass(frozen=True)
class Figure:
    """A value and what it is held against: a limit of nature, measured beside it, or a goal that we set."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    limit_name: str = ""

    @property
    def reached(self) -> float | None:
        """1 is the limit reached, more is better: limit / value for times and sizes, value / limit for rates."""
        if not self.limit:
            return None
        return self.limit / self.value if self.unit in COSTS else self.value / self.limit

    def line(self) -> str:
        """As a terminal shows it."""
        text = f"{self.name:<46}{shown(self.value, self.unit):>18}"
        if self.limit is None:
            return text
        return f"{text}{self.reached:>8,.0%} of {self.limit_name}: {shown(self.limit, self.unit)}"


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


def shown(value: float, unit: str) -> str:
    """Three digits are more than these measurements repeat to: 0.0123 s, 21.4 s, 182 s, 4,280 tokens/s."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}"


def phases_line(phases: dict[str, float]) -> str:
    """`detection 15.2 s · requeue 31.0 s`; phases too short to show are left out."""
    return " · ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items() if seconds >= 0.05)
