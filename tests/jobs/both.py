"""For test_launchers.py: what a rank was told (jobs.whoami) and then training, in one start."""

import sys
from collections.abc import Sequence

from jobs import train, whoami


def main(arguments: Sequence[str]) -> int:
    (folder,) = [word.partition("=")[2] for word in arguments if word.startswith("--run.folder=")]
    return whoami.main([f"--folder={folder}-ranks"]) or train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
