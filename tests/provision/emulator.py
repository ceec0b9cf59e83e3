"""Redfish controllers for tests: the real sushy-emulator with its fake driver, with TLS and a password.

Its configuration is Python: the fake driver is told there to act at once (it takes up to 11 s otherwise) and
to state memory and processors, which it leaves out.
"""

import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

USER, PASSWORD = "operator", "correct-horse-battery"
DRIVER = """
from types import SimpleNamespace
from sushy_tools.emulator.resources.systems import fakedriver
from sushy_tools.error import NotSupportedError

fakedriver.random = SimpleNamespace(randint=lambda first, last: 0)

def stated(key):
    def get(self, identity):
        value = self._get(identity).get(key)
        if value is None:
            raise NotSupportedError(key)
        return value
    return get

fakedriver.FakeDriver.get_total_memory = stated("memory_gib")
fakedriver.FakeDriver.get_total_cpus = stated("sockets")
fakedriver.FakeDriver.get_processors = stated("processors")
"""


def server(name: str, **facts: Any) -> dict[str, Any]:
    """A system of the fake driver: off, by UEFI, from its disk, unless `facts` say otherwise."""
    uuid = f"00000000-0000-4000-8000-{zlib.crc32(name.encode()):012d}"
    return {"uuid": uuid, "name": name, "power_state": "Off", "nics": [], **facts}


def processors(sockets: int, cores: int) -> list[dict[str, Any]]:
    return [
        {"id": f"CPU{i}", "socket": str(i), "vendor": "V", "model": "M", "cores": cores, "threads": 2 * cores}
        for i in range(sockets)
    ]


@dataclass
class Emulator:
    """Running controllers; `system` reads and `act` changes one as if by hand, past the code under test."""

    base: str
    ca: Path
    uuids: dict[str, str]

    def url(self, name: str) -> str:
        return f"{self.base}/redfish/v1/Systems/{self.uuids[name]}"

    def _ask(self, method: str, url: str, data: Any = None) -> requests.Response:
        session = requests.Session()
        session.trust_env = False
        answer = session.request(
            method, url, json=data, auth=(USER, PASSWORD), verify=str(self.ca), timeout=10
        )
        answer.raise_for_status()
        return answer

    def system(self, name: str) -> Any:
        return self._ask("GET", self.url(name)).json()

    def reset(self, name: str, how: str) -> None:
        self._ask("POST", f"{self.url(name)}/Actions/ComputerSystem.Reset", {"ResetType": how})

    def boot(self, name: str, **boot: str) -> None:
        self._ask("PATCH", self.url(name), {"Boot": boot})


def certificate(folder: Path, names: str = "IP:127.0.0.1") -> Path:
    """A certificate that signs itself, and its key beside it (.key)."""
    cert = folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bmc",
         "-addext", f"subjectAltName={names}", "-keyout", f"{cert}.key", "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert


@contextmanager
def emulator(folder: Path, servers: list[dict[str, Any]], names: str = "IP:127.0.0.1") -> Iterator[Emulator]:
    """`servers` behind one controller on a free port of 127.0.0.1. Its log is in `folder`."""
    import bcrypt

    folder.mkdir(parents=True, exist_ok=True)
    cert = certificate(folder, names)
    (folder / "users").write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    (folder / "state").mkdir()
    port = free_port()
    settings = {
        "SUSHY_EMULATOR_FAKE_DRIVER": True,
        "SUSHY_EMULATOR_FAKE_SYSTEMS": servers,
        "SUSHY_EMULATOR_STATE_DIR": str(folder / "state"),
        "SUSHY_EMULATOR_AUTH_FILE": str(folder / "users"),
        "SUSHY_EMULATOR_LISTEN_IP": "127.0.0.1",
        "SUSHY_EMULATOR_LISTEN_PORT": port,
        "SUSHY_EMULATOR_SSL_CERT": str(cert),
        "SUSHY_EMULATOR_SSL_KEY": f"{cert}.key",
    }
    config = folder / "config.py"
    config.write_text(DRIVER + "".join(f"{key} = {value!r}\n" for key, value in settings.items()))
    program = Path(sys.executable).with_name("sushy-emulator")
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [program, "--config", str(config)], stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            _wait(port, running, folder / "log")
            uuids = {server["name"]: server["uuid"] for server in servers}
            yield Emulator(f"https://127.0.0.1:{port}", cert, uuids)
        finally:
            running.terminate()
            running.wait(10)


def _wait(port: int, running: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 30
    while running.poll() is None and time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no emulator:\n{log.read_text()}")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def speechless() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
    for one in held:
        one.close()
