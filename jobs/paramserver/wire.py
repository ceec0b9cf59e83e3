"""Frames between server and workers: a fixed header, then numbers of a size that both sides know.

    worker -> server   hello     32 bytes that stand for the model, data and options; length and text of a name
    server -> worker   answer    TICKET with step, part, parts of a step and version, then the weights;
                                 or END; or REFUSED with a text
    worker -> server   result    step, part, version, loss, seconds of data wait; then the gradient

Little-endian, weights and gradients as float32 in the order of the model's parameters. Nothing is unpickled.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Any

from jobs.paramserver.tickets import Ticket

HELLO = struct.Struct("<8s32sH")
MAGIC = b"slipway1"
ANSWER = struct.Struct("<Bqqqq")
RESULT = struct.Struct("<qqqdd")
TICKET, END, REFUSED = 1, 2, 3
LONGEST = 256  # bytes of a name or a reason


class Closed(OSError):
    """The other side is gone, or does not speak this language."""


@dataclass(frozen=True)
class Result:
    """What a worker says of a ticket: the mean loss of its part, from weights of `version` updates."""

    ticket: Ticket
    version: int
    loss: float
    data_s: float


def tune(end: socket.socket, silent_s: int) -> None:
    """Small frames at once, and a host that died is found after `silent_s` (tcp(7))."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {
        socket.TCP_KEEPIDLE: max(1, silent_s // 2),
        socket.TCP_KEEPINTVL: max(1, silent_s // 6),
        socket.TCP_KEEPCNT: 3,
        socket.TCP_USER_TIMEOUT: silent_s * 1000,
    }.items():
        end.setsockopt(socket.IPPROTO_TCP, name, value)


def read(end: socket.socket, into: bytearray | memoryview) -> None:
    """Fill `into`. Raises Closed, and TimeoutError after the socket's time-out without a byte."""
    rest = memoryview(into)
    while rest:
        got = end.recv_into(rest)
        if not got:
            raise Closed("the connection was closed")
        rest = rest[got:]


def _header(end: socket.socket, form: struct.Struct) -> tuple[Any, ...]:
    header = bytearray(form.size)
    read(end, header)
    return form.unpack(header)


def _text(end: socket.socket, length: int) -> str:
    if length > LONGEST:
        raise Closed(f"a text of {length} bytes")
    text = bytearray(length)
    read(end, text)
    return text.decode(errors="replace")


def send_hello(end: socket.socket, digest: bytes, name: str) -> None:
    text = name.encode()[:LONGEST]
    end.sendall(HELLO.pack(MAGIC, digest, len(text)) + text)


def receive_hello(end: socket.socket) -> tuple[bytes, str]:
    """Digest and name of a worker. Raises Closed for anything else that connects."""
    magic, digest, length = _header(end, HELLO)
    if magic != MAGIC:
        raise Closed("not a worker")
    return digest, _text(end, length)


def send_ticket(end: socket.socket, ticket: Ticket, parts: int, version: int, weights: memoryview) -> None:
    end.sendall(ANSWER.pack(TICKET, ticket.step, ticket.part, parts, version))
    end.sendall(weights)


def send_end(end: socket.socket) -> None:
    end.sendall(ANSWER.pack(END, 0, 0, 0, 0))


def send_refusal(end: socket.socket, why: str) -> None:
    text = why.encode()[:LONGEST]
    end.sendall(ANSWER.pack(REFUSED, len(text), 0, 0, 0) + text)


def receive_answer(end: socket.socket, weights: memoryview) -> tuple[Ticket, int, int] | str | None:
    """The next ticket, parts of a step and the weights' version, with `weights` filled.

    None at the end; a text when refused.
    """
    kind, step, part, parts, version = _header(end, ANSWER)
    if kind == END:
        return None
    if kind == REFUSED:
        return _text(end, step)
    if kind != TICKET:
        raise Closed("not a server")
    read(end, weights)
    return Ticket(step, part), parts, version


def send_result(end: socket.socket, result: Result, gradient: memoryview) -> None:
    ticket = result.ticket
    end.sendall(RESULT.pack(ticket.step, ticket.part, result.version, result.loss, result.data_s))
    end.sendall(gradient)


def receive_result(end: socket.socket, gradient: memoryview) -> Result:
    """A worker's result, with `gradient` filled."""
    step, part, version, loss, data_s = _header(end, RESULT)
    read(end, gradient)
    return Result(Ticket(step, part), version, loss, data_s)
