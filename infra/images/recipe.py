"""What an image is made by: the files of infra/ that take part in making it, which are a part of its name.

Found by their imports, so that none can be forgotten: a module that makes an image, and every module of infra/images
that it imports, and those that these import. A comment more in one of them builds an image once more than needed; one
of them left out would leave an old image under a new commit's name.
"""

import ast
from functools import cache
from pathlib import Path

FOLDER = Path("infra/images")
# What these make is in an image's name by what it is made from: a program's folder, a Go toolchain's version.
RESULTS = {"programs", "golang"}


@cache
def files(module: str, root: Path) -> tuple[Path, ...]:
    """infra/images/<module>.py of the checkout at `root`, with all that it imports there."""
    found: dict[str, None] = {}
    ahead = [module]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found[name] = None
            ahead += [other for other in _imports(root / FOLDER / f"{name}.py") if other not in RESULTS]
    return tuple(root / FOLDER / f"{name}.py" for name in sorted(found))


def _imports(file: Path) -> list[str]:
    """Modules of infra/images that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module == "infra.images":
            found += [name.name for name in node.names]
        elif node.module.startswith("infra.images."):
            found.append(node.module.removeprefix("infra.images."))
    return found
