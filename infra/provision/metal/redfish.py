"""Power, boot and facts of one server, asked of its management controller (BMC) by Redfish.

The library is sushy; it is imported when a controller is asked, and not before. Whatever goes wrong is a
`Trouble` of one line that names no password. Every wait has an end: CONNECT_S, ANSWER_S, POWER_S.
"""

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CONNECT_S = 5.0  # a controller is on the site's own network
ANSWER_S = 20.0  # controllers are slow: several seconds for one answer are common
POWER_S = 90.0  # until a server that was asked to be on or off says that it is
POLL_S = 1.0
DISK, NET = "Hdd", "Pxe"  # what a server boots from, in Redfish's words
# Redfish's PowerState while it changes counts as what it becomes.
_POWER = {"On": "On", "PoweringOn": "On", "Off": "Off", "PoweringOff": "Off"}


class Trouble(Exception):
    """The controller did not do what it was asked to; one line says why."""


@dataclass(frozen=True)
class Login:
    """Who asks. `verify` is a bundle of certificates, True for the library's own, False for none."""

    user: str
    password: str = field(repr=False)
    verify: bool | str = True


def connect(url: str, login: Login) -> Any:
    """The sushy `System` behind `url`, its state read. Raises Trouble.

    `url` is that of a system, https://10.0.0.1/redfish/v1/Systems/1, or of a controller that has only one.
    Basic authentication: no session is left behind on a controller, which has room for few.
    """
    import sushy
    from sushy.auth import BasicAuth

    # What it would say in passing is in the Trouble; without a handler it goes to stderr.
    logging.getLogger("sushy").addHandler(logging.NullHandler())
    logging.getLogger("sushy").propagate = False
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    with _explained(login.user):
        root = sushy.Sushy(
            f"{parts.scheme}://{parts.netloc}",
            auth=BasicAuth(username=login.user, password=login.password),
            verify=login.verify,
            server_side_retries=1,
            server_side_retries_delay=1,
            connect_timeout=CONNECT_S,
            read_timeout=ANSWER_S,
        )
        return root.get_system(path if "/Systems/" in path else None)


def state(system: Any) -> dict[str, Any]:
    """What the system says now: see `facts`. Raises Trouble."""
    from sushy.exceptions import MissingAttributeError, ResourceNotFoundError

    with _explained():
        system.refresh(force=True)
        try:
            processors = [member.json for member in system.processors.get_members()]
        except (MissingAttributeError, ResourceNotFoundError):
            processors = []  # an optional part of the standard
        return facts(system.json, processors)


def facts(system: Mapping[str, Any], processors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts that we use, from a ComputerSystem and its Processors as Redfish has them.

    power On or Off; boot Hdd, Pxe ... and once: only the next time; boot_mode UEFI or Legacy; model, serial,
    health; memory_gib; sockets, cores (physical) and gpus. What the controller does not state is None.
    """
    boot = system.get("Boot") or {}
    enabled = boot.get("BootSourceOverrideEnabled")
    target = boot.get("BootSourceOverrideTarget")
    # Without an override the firmware's own order counts: its disks, on a server that has been installed.
    overridden = enabled != "Disabled" and target not in (None, "None")
    summary = system.get("ProcessorSummary") or {}
    present = [p for p in processors if (p.get("Status") or {}).get("State") != "Absent"]
    cpus = [p for p in present if p.get("ProcessorType", "CPU") == "CPU"]
    cores = [_number(p.get("TotalCores")) for p in cpus]
    gpus = [p for p in present if p.get("ProcessorType") in ("GPU", "Accelerator")]
    return {
        "power": _POWER.get(str(system.get("PowerState"))),
        "boot": target if overridden else DISK,
        "once": overridden and enabled == "Once",
        "boot_mode": boot.get("BootSourceOverrideMode"),
        "model": _text(system.get("Manufacturer"), system.get("Model")),
        "serial": _text(system.get("SerialNumber")),
        "health": (system.get("Status") or {}).get("Health"),
        "memory_gib": _number((system.get("MemorySummary") or {}).get("TotalSystemMemoryGiB")),
        "sockets": len(cpus) or _number(summary.get("Count")),
        "cores": sum(n for n in cores if n) if all(cores) and cores else _number(summary.get("CoreCount")),
        "gpus": len(gpus) or None,
    }


def power_on(system: Any) -> None:
    """Switch on and wait until the controller says that it is on. Raises Trouble."""
    _reset(system, "ON", "On")


def restart(system: Any) -> None:
    """Switch off and on again at once, whatever runs there. Raises Trouble."""
    _reset(system, "FORCE_RESTART", "On")


def shut_down(system: Any) -> None:
    """Ask the operating system to end and wait until the power is off. Raises Trouble."""
    _reset(system, "GRACEFUL_SHUTDOWN", "Off")


def boot_from(system: Any, device: str, *, once: bool) -> None:
    """Boot from `device` (DISK or NET) by UEFI, at the next start only or at every one. Raises Trouble."""
    import sushy

    with _explained():
        system.set_system_boot_options(
            target=sushy.BootSource(device),
            enabled=sushy.BootSourceOverrideEnabled.ONCE
            if once
            else sushy.BootSourceOverrideEnabled.CONTINUOUS,
            mode=sushy.BootSourceOverrideMode.UEFI,
        )


def _reset(system: Any, how: str, wanted: str) -> None:
    import sushy

    with _explained():
        system.reset_system(sushy.ResetType[how])
        end = time.monotonic() + POWER_S
        while True:
            system.refresh(force=True)
            if _POWER.get(str(system.json.get("PowerState"))) == wanted:
                return
            if time.monotonic() > end:
                raise Trouble(f"still not {wanted.lower()} {POWER_S:.0f} s after it was asked to be")
            time.sleep(POLL_S)


class _explained:
    """Turns what goes wrong inside into a Trouble."""

    def __init__(self, user: str = "") -> None:
        self.user = user

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        # Anything: a controller that answers what no one expects must not stop the other servers.
        if isinstance(error, Exception) and not isinstance(error, Trouble):
            raise Trouble(explain(error, self.user)) from error


def explain(error: Exception, user: str = "") -> str:
    """One line for an error of sushy, requests or of an answer that is no Redfish."""
    from sushy import exceptions

    if isinstance(error, exceptions.AccessError):
        return f"refuses user '{user}' with this password" if user else "refuses the user"
    if isinstance(error, exceptions.ResourceNotFoundError):
        return f"has no {_url(error)}" if _url(error) else "has no such system"
    if isinstance(error, exceptions.UnknownDefaultError):
        return "has not exactly one system; write the one that is meant: https://.../redfish/v1/Systems/<id>"
    if isinstance(error, exceptions.HTTPError):
        return f"answers {error.status_code}: {_line(error.detail or error.code)}"
    if isinstance(error, exceptions.ConnectionError):
        return _connection(error.__context__ or error)
    if isinstance(error, (json.JSONDecodeError, ValueError, TypeError, AttributeError, KeyError)):
        return f"answers something that is no Redfish ({type(error).__name__})"
    return _line(error)


def _connection(error: BaseException) -> str:
    """Why there was no answer, from an exception of requests."""
    import requests.exceptions as kinds

    text = str(error)
    if isinstance(error, kinds.SSLError):
        why = re.search(r"certificate verify failed: ([^(\"']*(?:'[^']*')?[^(\"']*)", text)
        said = why[1].strip() if why else "no TLS that we speak"
        return f"TLS certificate not trusted: {said}; SSL_CERT_FILE names a company's own"
    if isinstance(error, kinds.ConnectTimeout):
        return f"no answer within {CONNECT_S:.0f} s"
    if isinstance(error, kinds.ReadTimeout):
        return "accepts the connection and says nothing"
    if isinstance(error, kinds.ProxyError):
        return "not reached through this machine's proxy; name its network in no_proxy"
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return system[1].lower() if system else _line(text)


def _url(error: Exception) -> str:
    found = re.search(r"Resource \S+?(/redfish\S*) not found", str(error))
    return found[1] if found else ""


def _line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:160]


def _number(value: Any) -> int | None:
    """Controllers write numbers as text, too."""
    try:
        return round(float(value)) or None
    except (TypeError, ValueError):
        return None


def _text(*words: Any) -> str | None:
    return " ".join(str(word).strip() for word in words if word) or None
