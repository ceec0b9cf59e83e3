"""For test_launchers.py: a program without torch, whose summary says with which options it was called."""

import json
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    (named,) = [word.partition("=")[2] for word in arguments if word.startswith("--run.folder=")]
    folder = Path(named)
    folder.mkdir(parents=True)
    others = [word for word in arguments if not word.startswith("--run.folder=")]
    (folder / "summary.json").write_text(json.dumps({"state": "completed", "options": others}))
    return 0
