"""Look at runs, and check one before it starts: python -m jobs VERB. `python -m jobs VERB --help` has examples.

    preflight   whether a configuration fits: divisibility, memory of a rank, room for checkpoints
    ledger      what runs cost: time, energy, money, goodput
    report      a page about a run, with pictures
    compare     a page that lays runs beside each other
    replay      run a run again, and compare the losses
    samples     proves that no sample was lost or trained on twice

Exit codes: 0 done, 1 it failed or differs, 2 a mistake in what was asked.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

VERBS = ("preflight", "ledger", "report", "compare", "replay", "samples")


def main(arguments: Sequence[str]) -> int:
    """Only the verb's own module is imported, so that each starts in a moment."""
    verb, *rest = arguments or ["--help"]
    if verb in ("--help", "-h"):
        print(__doc__.strip())
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(VERBS)}"
        print(f"{verb}: no such verb. {hint}", file=sys.stderr)
        return 2
    try:
        code: int = importlib.import_module(f"jobs.tools.{verb}").main(rest)
    except BrokenPipeError:  # its reader, `head`, had enough
        sys.stderr.close()
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
