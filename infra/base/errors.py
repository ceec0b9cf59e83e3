"""The two ways in which a command ends badly, each told to the user in a line and without a traceback."""


class Mistake(Exception):
    """The input is wrong: a file, a key, a value. Says where, what was found and what would be right.

    Several mistakes in one file are several lines of one message. Exit code 2; nothing was started.
    """


class Failure(Exception):
    """The input is right, but something did not work: a download, a disk, a daemon.

    Says what to do about it, and which log holds the details. Exit code 1.
    """
