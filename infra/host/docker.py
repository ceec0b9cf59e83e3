"""A Docker engine with compose v2 and buildx on this host: the one that is there, else one that we install.

`read_facts` looks, `decide` says what to do (pure, so that every kind of host is a row in a test's table),
and `ensure` does it. What was measured on hosts of each kind is in docs/hosts.md.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from infra.base import files
from infra.base.errors import Failure
from infra.base.paths import cache
from infra.base.process import logged, run, start, succeeds
from infra.base.progress import Step
from infra.base.version import number
from infra.base.wait import settled
from infra.host import apt, engine

DAEMON_JSON = Path("/etc/docker/daemon.json")
ENGINE_LOG = Path("/var/log/docker.log")
ENGINE_PID_FILES = (Path("/run/docker.pid"), Path("/run/docker/containerd/containerd.pid"))
ANSWER_S = 20.0  # for an engine to say its version: 0.02 s were measured, on a loaded machine 2
START_SECONDS = 60  # a first start makes its network and storage; 2 s were measured, slow disks take longer
CAP_SYS_RESOURCE = 24  # bit number, linux/capability.h


@dataclass(frozen=True)
class Facts:
    """What decides how this host gets its engine. Versions are None where the thing is missing."""

    system: str = "debian"  # ID of /etc/os-release
    release: str = "12"  # VERSION_ID of it
    codename: str = "bookworm"
    root: bool = True
    systemd: bool = False  # whether systemd is the host's init
    sys_resource: bool = True  # whether processes here may have CAP_SYS_RESOURCE
    mtu: int = 1500  # of the default route's device
    docker_host: str | None = None  # the user's DOCKER_HOST
    engine: str | None = None  # version of the engine that answers
    denied: bool = False  # an engine is there, but not for this user
    hangs: bool = False  # an engine is there, and does not answer
    dockerd: bool = False  # an engine is installed, whether it answers or not
    compose: str | None = None
    buildx: str | None = None


class Action(Enum):
    """What `ensure` can do; the value is what the user reads while it works."""

    CONFIGURE = "writing /etc/docker/daemon.json"
    INSTALL_ENGINE = "installing Docker"
    INSTALL_PLUGINS = "installing compose and buildx"
    START = "starting Docker"


def decide(facts: Facts) -> list[Action]:
    """What must be done on a host with these facts, in order; nothing when all is there.

    Raises Failure, with what a person has to do, where we may not or cannot do it.
    """
    plugins = [name for name, there in (("compose v2", facts.compose), ("buildx", facts.buildx)) if not there]
    packaged = facts.root and can_install(facts)
    if facts.engine:
        if not facts.sys_resource and number(facts.engine) < number("23"):
            raise Failure(
                f"Docker {facts.engine} cannot run privileged containers on a host without CAP_SYS_RESOURCE: "
                "remove it (apt-get remove docker.io) and run this again, or install Docker 23 or newer"
            )
        if not plugins:
            return []
        if packaged:
            return [Action.INSTALL_PLUGINS]
        raise Failure(f"Docker {facts.engine} lacks {' and '.join(plugins)}: install the CLI plugins")
    if facts.hangs:
        raise Failure(
            f"the Docker engine does not answer within {ANSWER_S:.0f} s: restart it (systemctl restart docker)"
        )
    if facts.denied:
        raise Failure(
            "Docker is there, but not for you: have your user added to group docker, then log in again"
        )
    if facts.docker_host:
        raise Failure(
            f"no Docker engine answers at DOCKER_HOST={facts.docker_host}: start it, or unset DOCKER_HOST"
        )
    if facts.dockerd:
        if not facts.root:
            raise Failure("Docker is installed but does not answer: start it (as root: make host)")
        if plugins and not packaged:
            raise Failure(f"Docker is installed without {' and '.join(plugins)}: install the CLI plugins")
        return [*([Action.INSTALL_PLUGINS] if plugins else []), Action.START]
    if not facts.root:
        raise Failure("no Docker engine: install one with compose v2 and buildx, or run `make host` as root")
    if not packaged:
        raise Failure(
            f"no Docker engine, and none that we can install on {facts.system} {facts.release} "
            "(only on Debian 12, Ubuntu 22.04 and newer): install one with compose v2 and buildx"
        )
    return [Action.CONFIGURE, Action.INSTALL_ENGINE, Action.START]


def can_install(facts: Facts) -> bool:
    oldest = {"debian": "12", "ubuntu": "22.04"}.get(facts.system)
    return oldest is not None and number(facts.release) >= number(oldest)


def daemon_settings(mtu: int) -> dict[str, object]:
    """What the engine must be told for a host whose default route has this MTU in bytes.

    Its networks have 1500 whatever the host's link has: on a smaller link (cloud overlays, VPNs) large
    packets vanish, and TLS handshakes hang.
    """
    if mtu == 1500:
        return {}
    return {
        "mtu": mtu,
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": str(mtu)}},
    }


def read_facts() -> Facts:
    """Look at this host; takes a few tenths of a second."""
    system = _os_release()
    engine, trouble = _engine()
    return Facts(
        system=system.get("ID", "unknown"),
        release=system.get("VERSION_ID", ""),
        codename=system.get("VERSION_CODENAME", ""),
        root=os.geteuid() == 0,
        systemd=Path("/run/systemd/system").is_dir()
        and Path("/proc/1/comm").read_text().strip() == "systemd",
        sys_resource=bool(_bounding_set() >> CAP_SYS_RESOURCE & 1),
        mtu=default_mtu(),
        docker_host=os.environ.get("DOCKER_HOST"),
        engine=engine,
        denied=trouble == DENIED,
        hangs=trouble == HANGS,
        dockerd=shutil.which("dockerd") is not None,
        compose=_plugin("compose", "version", "--short"),
        buildx=_plugin("buildx", "version"),
    )


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().replace('"', "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def read_codename() -> str:
    """The host's release as its distribution calls it, `bookworm`; empty where it has no such name."""
    return _os_release().get("VERSION_CODENAME", "")


def ready() -> bool:
    """Whether an engine answers; takes 20 ms."""
    return _engine()[0] is not None


def default_mtu() -> int:
    """MTU in bytes of the default route's device; 1500 where there is no such route."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination = line.split()[:2]
        if destination == "00000000":
            return int(Path(f"/sys/class/net/{device}/mtu").read_text())
    return 1500


def _bounding_set() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return 0


DENIED, HANGS = "denied", "hangs"


def _engine() -> tuple[str | None, str]:
    """The version of the engine that answers; else DENIED when one refuses this user, HANGS when it says nothing."""
    if not shutil.which("docker"):
        return None, ""
    words = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = run(words, timeout_s=ANSWER_S, capture_output=True, text=True)
    except Failure:
        return None, HANGS
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return None, DENIED if "permission denied" in done.stderr.lower() else ""


def _plugin(*command: str) -> str | None:
    if not shutil.which("docker"):
        return None
    try:
        done = run(["docker", *command], timeout_s=ANSWER_S, capture_output=True, text=True)
    except Failure:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def ensure(step: Step) -> None:
    """Leave this host with a working engine; says in the step's line what was done."""
    step.doing("looking for Docker")
    facts = read_facts()
    actions = decide(facts)
    for action in actions:
        step.doing(action.value)
        match action:
            case Action.CONFIGURE:
                _configure(facts)
            case Action.INSTALL_ENGINE:
                apt.install(_packages(facts, engine=True), facts.codename, log(), newer=True)
            case Action.INSTALL_PLUGINS:
                apt.install(_packages(facts, engine=False), facts.codename, log(), newer=True)
            case Action.START:
                _start(facts)
    if not actions:
        step.did(f"Docker {facts.engine}", changed=False)
        return
    facts = read_facts()
    if decide(facts):
        raise Failure(
            f"Docker still does not work after {', '.join(a.value for a in actions)}\n  log: {log()}"
        )
    done = ("installed and " if Action.INSTALL_ENGINE in actions else "") + (
        "started" if Action.START in actions else "given compose and buildx"
    )
    step.did(f"Docker {facts.engine} {done}")


def log() -> Path:
    return cache() / "logs" / "host.log"


def _packages(facts: Facts, *, engine: bool) -> list[str]:
    if facts.system == "ubuntu":
        return [*(["docker.io"] if engine else []), "docker-compose-v2", "docker-buildx"]
    return [*(["docker.io", "docker-cli", "containerd"] if engine else []), "docker-compose", "docker-buildx"]


def _configure(facts: Facts) -> None:
    settings = daemon_settings(facts.mtu)
    if DAEMON_JSON.exists() or not settings:
        return  # someone's own settings stand
    DAEMON_JSON.parent.mkdir(parents=True, exist_ok=True)
    files.put(DAEMON_JSON, json.dumps(settings, indent=2) + "\n")


def _start(facts: Facts) -> None:
    """Start the engine, under systemd where that is the host's init, and wait until it answers."""
    if _engine()[0]:
        return  # its package's installation started it
    if facts.systemd:
        logged(["systemctl", "enable", "--now", "docker.service"], log())
        process = None
    else:
        process = _start_daemon()

    def look() -> str:
        if succeeds(["docker", "version"], timeout_s=START_SECONDS):
            return ""
        if process and process.poll() is not None:
            last = [line for line in ENGINE_LOG.read_text(errors="replace").splitlines() if line][-1]
            raise Failure(f"dockerd ended with {process.returncode}: {last}\n  log: {ENGINE_LOG}")
        return "dockerd"

    where = "journalctl -u docker" if facts.systemd else str(ENGINE_LOG)
    settled(
        look,
        START_SECONDS,
        every_s=0.1,
        late=lambda _: f"dockerd does not answer after {START_SECONDS} s\n  log: {where}",
    )


def _start_daemon() -> subprocess.Popen[bytes]:
    """dockerd in a session of its own, so that it outlives this process. It writes /run/docker.pid itself."""
    for pid_file in ENGINE_PID_FILES:
        # Where /run is no tmpfs these outlive a reboot; dockerd believes them if the number is in use again.
        if pid_file.exists() and not _is_engine(pid_file.read_text().strip()):
            pid_file.unlink()
    ENGINE_LOG.parent.mkdir(parents=True, exist_ok=True)
    with ENGINE_LOG.open("ab") as file:
        return start(["dockerd"], stdout=file, stderr=file, start_new_session=True, cwd="/")


def _is_engine(pid: str) -> bool:
    comm = Path("/proc") / pid / "comm"
    return pid.isdigit() and comm.exists() and comm.read_text().strip() in ("dockerd", "containerd")


def describe() -> dict[str, object]:
    """Versions of what is there, for `--json`."""
    facts = read_facts()
    return {
        "engine": facts.engine,
        "compose": facts.compose,
        "buildx": facts.buildx,
        "cgroup": engine.facts()["CgroupVersion"],
        "mtu": facts.mtu,
    }
