"""How a job ends badly without a traceback."""

import sys


class Mistake(Exception):
    """The input is wrong: says where, what was found and what would be right."""

    exit_code = 2


class Failure(Exception):
    """The input is right, but something did not work: a disk, a checksum."""

    exit_code = 1


def told(error: Mistake | Failure) -> int:
    """Print what is wrong to stderr. Returns the exit code of the command that ends with it."""
    print(error, file=sys.stderr)
    return error.exit_code
