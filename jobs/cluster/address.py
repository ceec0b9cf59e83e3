"""At which of its addresses other ranks reach this host.

That of GLOO_SOCKET_IFNAME's interface where that is set, as gloo takes it. Else what the host's name means, unless that
is the host alone: Debian's installer writes `127.0.1.1 <name>` into /etc/hosts, and ranks elsewhere who are told that
address talk to themselves. Then the address that the way to the other ranks begins at.
"""

import fcntl
import ipaddress
import os
import socket
import struct

SIOCGIFADDR = 0x8915  # netdevice(7): the address of an interface
ANYWHERE = "192.0.2.1"  # RFC 5737: nobody's, so that its route is the default one


def address() -> str:
    """The IPv4 address that other ranks reach this process at."""
    named = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if named:
        return _of(named)
    own = _by_name()
    if own and not ipaddress.ip_address(own).is_loopback:
        return own
    ways = (_way_to(to) for to in (os.environ.get("MASTER_ADDR", ""), ANYWHERE) if to)
    return next((way for way in ways if way and not ipaddress.ip_address(way).is_loopback), "127.0.0.1")


def show_gloo() -> None:
    """Have gloo take the interface of `address`, where several hosts are and it would take the loopback."""
    several = os.environ.get("WORLD_SIZE", "1") != os.environ.get("LOCAL_WORLD_SIZE", "1")
    own = _by_name()
    if "GLOO_SOCKET_IFNAME" in os.environ or not several or not own:
        return
    if ipaddress.ip_address(own).is_loopback:
        found = address()
        names = [name for _, name in socket.if_nameindex() if _of(name) == found]
        if names:
            os.environ["GLOO_SOCKET_IFNAME"] = names[0]


def _by_name() -> str:
    """What this host's name means, if it is an address of this host; a name may mean another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = socket.gethostbyname(socket.gethostname())
            probe.bind((found, 0))
        except OSError:
            return ""
        return found


def _way_to(host: str) -> str:
    """This host's address on the way to another one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:  # no such name, no such way
            return ""
        return str(probe.getsockname()[0])


def _of(interface: str) -> str:
    """The address of an interface; empty for one that has none or is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            asked = struct.pack("256s", interface.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)[20:24])
        except OSError:
            return ""
