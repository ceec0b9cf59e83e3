"""The command line of the benchmarks."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from jobs import bench as package
from jobs.bench import compute, faults, gpu, launchers, ranks
from jobs.bench.figure import Figure
from jobs.cli.errors import Failure, Mistake, told

ALONE = faults.MEASURES | launchers.MEASURES  # they start what they measure
TOGETHER = ranks.MEASURES | {"compute": compute.compute}  # of several ranks that are started for them
RANKS = {"ddp": 2, "scaling": 4, "allreduce": 2, "checkpoint": 2, "compute": 1}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*TOGETHER, *ALONE, "gpu"])
    parser.add_argument("--ranks", type=int, help="ranks to start on this machine (2; scaling: 4)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="of gpu (cuda)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each figure")
    chosen = parser.parse_args(arguments)
    Path("runs").mkdir(exist_ok=True)
    try:
        if chosen.name == "gpu":
            figures = gpu.measure(chosen.device)
        elif chosen.name in ALONE:
            figures = ALONE[chosen.name]()
        elif "RANK" in os.environ:
            figures = _as_a_rank(chosen.name)
        else:
            count = chosen.ranks or RANKS[chosen.name]
            launch = [sys.executable, "-m", "jobs.torchrun", "--standalone", f"--nproc-per-node={count}"]
            return subprocess.run([*launch, "-m", "jobs.bench", *arguments], check=False).returncode
    except (Mistake, Failure) as error:
        return told(error)
    for figure in figures:
        facts = {"benchmark": chosen.name, **asdict(figure), "reached": figure.reached}
        print(json.dumps(facts) if chosen.json else figure.line(), flush=True)
    return 0


def _as_a_rank(name: str) -> list[Figure]:
    """The figures, on rank 0; none on the others."""
    import torch

    from jobs.parallel import ranks as everyone

    torch.set_num_threads(1)
    torch.manual_seed(0)
    here = everyone.start(60)
    figures = TOGETHER[name](here)
    here.wait()
    everyone.end()
    return figures if here.first else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
