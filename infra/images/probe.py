"""What a stack says of itself: run by the stack's own Python, in a container that has nothing else of ours.

    /opt/stack/current/bin/python stackprobe.py

Prints JSON: the versions that the libraries report (not what their metadata claims), the installed
distributions, and every file that is not what its distribution's RECORD says. Works without a GPU.
"""

import base64
import csv
import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Made by `uv venv` itself, which writes no RECORD.
OF_THE_ENVIRONMENT = {"_virtualenv.py", "_virtualenv.pth"}


def versions() -> dict[str, str | None]:
    """Versions as the loaded libraries report them."""
    import torch

    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "cuda": _cuda_runtime(torch.version.cuda),
        "cudnn": _cudnn(torch.backends.cudnn.version()),
        "nccl": ".".join(map(str, nccl)) if nccl else None,
    }


def _cuda_runtime(compiled_for: str | None) -> str | None:
    """What libcudart itself says; torch has loaded it."""
    if compiled_for is None:
        return None
    number = ctypes.c_int()
    library = ctypes.CDLL(f"libcudart.so.{compiled_for.split('.')[0]}")
    library.cudaRuntimeGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _cudnn(number: int | None) -> str | None:
    """92400 is 9.24.0 (cudnn_version.h)."""
    return None if number is None else f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def capabilities() -> list[str]:
    """Compute capabilities that torch has kernels for: `9.0` for sm_90."""
    import torch

    flags = torch._C._cuda_getArchFlags() or ""
    numbers = [flag.removeprefix("sm_").rstrip("af") for flag in flags.split() if flag.startswith("sm_")]
    return [f"{number[:-1]}.{number[-1]}" for number in numbers]


def distributions() -> dict[str, str]:
    found = importlib.metadata.distributions()
    return {dist.name.lower().replace("_", "-").replace(".", "-"): dist.version for dist in found}


def damage(site: Path) -> list[str]:
    """Files that are missing, changed, or of no distribution at all. Bytecode is not looked at."""
    recorded: dict[str, str] = {}
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(newline="") as file:
            recorded.update((os.path.normpath(row[0]), row[1]) for row in csv.reader(file))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter's lock
        found = pool.map(lambda item: _compare(site, *item), recorded.items())
        wrong = [complaint for complaint in found if complaint]
    return sorted(wrong + [f"{name}: of no distribution" for name in _unknown(site, set(recorded))])


def _compare(site: Path, name: str, expected: str) -> str | None:
    try:
        with (site / name).open("rb") as file:
            if not expected:  # a RECORD has no hash of itself
                return None
            method, _, value = expected.partition("=")
            digest = hashlib.file_digest(file, method).digest()
    except OSError as error:
        return f"{name}: {error.strerror}"
    found = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return None if found == value else f"{name}: changed"


def _unknown(site: Path, recorded: set[str]) -> Iterator[str]:
    for place, folders, files in os.walk(site):
        folders[:] = [folder for folder in folders if folder != "__pycache__"]
        for file in files:
            name = Path(place, file).relative_to(site).as_posix()
            if name not in recorded and name not in OF_THE_ENVIRONMENT:
                yield name


def main() -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    report = {
        "machine": platform.machine(),
        "distributions": distributions(),
        "damage": damage(site),
    }
    try:
        # Last, because importing a damaged library runs it.
        report["versions"] = versions()
        report["compute_capabilities"] = capabilities()
    except Exception as error:
        report["import_error"] = f"{type(error).__name__}: {error}"
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
