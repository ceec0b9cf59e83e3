"""What each rank was told by its launcher: a JSON file for each, and a line. No torch.

    python -m jobs.torchrun --standalone --nproc-per-node=2 -m jobs.whoami --folder=runs/whoami

`python -m jobs.whoami` needs a launcher's variables, as torch.distributed does. The first thing to run where a
job starts but does not meet: two ranks 0, a world of one, an address that is nobody's.
"""

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

LAYOUT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
OTHER = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def facts() -> dict[str, str]:
    """The variables of this rank, its host and its folder."""
    names = [*LAYOUT, *ADDRESS, *OTHER]
    told = {name: os.environ[name] for name in names if name in os.environ}
    return {**told, "host": socket.gethostname(), "folder": str(Path.cwd())}


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0
    folders = [word.partition("=")[2] for word in arguments if word.startswith("--folder=")]
    found = facts()
    missing = [name for name in (*LAYOUT, *ADDRESS) if name not in found]
    print(json.dumps(found), flush=True)
    if folders:
        folder = Path(folders[-1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{found.get('RANK', 'unknown')}.json").write_text(json.dumps(found, indent=1) + "\n")
    if missing:
        print(f"no {', '.join(missing)}: this process has no launcher", file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
