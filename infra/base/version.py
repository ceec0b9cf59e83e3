"""Versions, compared as numbers: 580.95 is newer than 580.9, and 26.05 than 24.11."""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version


@cache
def number(text: str) -> "Version":
    """The number that `text` begins with, as programs and packages write it, without what a distribution adds.

    `26.1.5+dfsg1` is 26.1.5, `24.11.5-4+deb13u1` is 24.11.5, `580.65.06` is 580.65.6, and what has no number is 0.
    """
    from packaging.version import Version

    found = re.match(r"\d+(\.\d+)*", text.strip().removeprefix("go").removeprefix("v"))
    return Version(found[0] if found else "0")
