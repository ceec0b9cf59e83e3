"""How a job ends badly without a traceback."""


class Mistake(Exception):
    """The input is wrong: says where, what was found and what would be right. Exit code 2."""


class Failure(Exception):
    """The input is right, but something did not work: a disk, a checksum. Exit code 1."""
