"""Models, a folder each, behind one contract (contract.py); and how any is optimised, in which precision."""

import difflib
import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from jobs.cli.errors import Mistake
from jobs.model.contract import Contract


def of(shape: Any) -> Contract:
    """The model that a section `model` of a configuration is of."""
    return named(shape.name)


def code(shape: Any) -> Path | None:
    """The package or file of a model that is not one of these here: it shapes a run as this program does."""
    spec = None if shape.name in _here() else importlib.util.find_spec(shape.name)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    return Path(places[0] if places else str(spec.origin))


@cache
def named(name: str) -> Contract:
    """The model of a folder here, or of a Python package. Raises Mistake."""
    here = _here()
    where = f"{__name__}.{name}" if name in here else name
    try:
        package = importlib.import_module(where) if name in here or _there(name) else None
    except Exception as error:  # whatever a stranger's package does
        hint = "; import torch where it is used" if getattr(error, "name", None) == "torch" else ""
        raise Mistake(
            f"model.name: {name} cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error
    if package is None:
        near = difflib.get_close_matches(name, here, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"jobs/model/ has: {', '.join(here)}"
        raise Mistake(f"model.name: no model and no Python package {name!r}. {hint}")
    found = getattr(package, "MODEL", None)
    if not isinstance(found, Contract):
        raise Mistake(f"model.name: {name} has no MODEL that is a Contract of jobs/model/contract.py")
    return found


def _here() -> list[str]:
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # of the package around it; an odd name
        return False
