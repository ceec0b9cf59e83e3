"""A run folder, read again: what the verbs of `python -m jobs` work on. No torch, no numpy, no YAML."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.cli import options
from jobs.cli.errors import Mistake
from jobs.telemetry import goodput, metrics

RUNS = Path("runs")


@dataclass(frozen=True)
class Record:
    """A run by its folder. What it has not written (yet) is empty."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def config(self) -> dict[str, str]:
        """The configuration as `section.key: text`, in order, as `config.to_yaml` writes it."""
        return options.flat((self.folder / "config.yaml").read_text())

    @cached_property
    def environment(self) -> dict[str, Any]:
        return _json(self.folder / "environment.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return _json(self.folder / "summary.json")

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl: one for each step that counts."""
        return metrics.read(self.folder / "metrics.jsonl")

    @cached_property
    def discarded(self) -> list[dict[str, Any]]:
        return metrics.read(self.folder / "discarded.jsonl")

    @cached_property
    def attempts(self) -> list[dict[str, Any]]:
        """Of attempts.jsonl: one for each start that came to a step."""
        return metrics.read(self.folder / "attempts.jsonl")

    @cached_property
    def account(self) -> goodput.Account:
        return goodput.read(self.folder)

    @property
    def job(self) -> str | None:
        """Slurm's number of the job that wrote it."""
        number: str | None = self.environment.get("launcher", {}).get("SLURM_JOB_ID")
        return number

    @property
    def simulated(self) -> bool:
        """Whether its scheduler gave it GPUs that are not there."""
        return bool(self.environment.get("gpus_simulated") or self.summary.get("gpus_simulated"))

    @property
    def tokens(self) -> int:
        """Tokens of the steps that count."""
        return len(self.lines) * self.number("train.batch") * self.number("model.context")

    def number(self, key: str) -> int:
        """A whole number of the configuration. Raises Mistake."""
        try:
            return int(self.config[key])
        except (KeyError, ValueError) as error:
            raise Mistake(f"{self.folder / 'config.yaml'}: {key}: no whole number there") from error


def find(name: str) -> Record:
    """The run of a folder, or of a name in runs/: `17`, `latest`. Raises Mistake when there is none."""
    for folder in (Path(name), RUNS / name):
        if (folder / "config.yaml").is_file():
            return Record(folder.parent / folder.resolve().name if folder.is_symlink() else folder)
    where = name if Path(name).is_dir() else RUNS / name
    why = "no config.yaml in it" if Path(where).is_dir() else "no such folder"
    raise Mistake(f"{where}: not a run: {why}. There are: {', '.join(names()) or 'none'}")


def names() -> list[str]:
    """Every run in runs/ that came to its first lines, the oldest first."""
    folders = (path.parent for path in RUNS.glob("*/config.yaml") if not path.parent.is_symlink())
    return [folder.name for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime)]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
