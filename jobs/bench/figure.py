"""A figure beside its limit or goal: what jobs/bench prints and what docs/measured.md is made of."""

from dataclasses import dataclass

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


def shown(value: float, unit: str) -> str:
    """Three digits are more than these measurements repeat to: 0.0123 s, 21.4 s, 182 s, 4,280 tokens/s."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()
