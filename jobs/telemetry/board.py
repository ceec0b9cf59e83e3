"""Each step's figures for TensorBoard, in the run's folder: off unless run.tensorboard is true.

    sbatch jobs/ddp.sbatch --run.tensorboard=true
    tensorboard --logdir=runs

Imported only then: it takes a second or two. A run that is resumed hides the steps that it computes again.
"""

from collections.abc import Mapping
from pathlib import Path

FOLDER = "tensorboard"


class Board:
    """Open for the steps after `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1)

    def show(self, line: Mapping[str, float | None]) -> None:
        """Add a line of metrics.jsonl; what is not known is left out."""
        step, unix = line["step"], line["time"]
        for name, value in line.items():
            if name not in ("step", "time") and value is not None:
                self._writer.add_scalar(name, float(value), step, walltime=unix)

    def close(self) -> None:
        self._writer.close()
