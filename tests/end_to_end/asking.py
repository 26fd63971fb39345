"""A client that asks one thing after the other on a connection of its own, and reads each answer to its last octet."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.end_to_end.daemon import read_until, status

if TYPE_CHECKING:
    import socket


@dataclass(frozen=True)
class Answer:
    """A response. reason: the word in the reason phrase of a refusal of ours."""

    status: int
    reason: str
    fields: dict[str, str]
    body: bytes


def get(client: socket.socket, url: str, *fields: str) -> Answer:
    """Ask for a URL, and read the answer."""
    client.sendall("\r\n".join((f"GET {url} HTTP/1.1", "Host: x", *fields, "", "")).encode())
    return answer(client)


def connect(client: socket.socket, target: str, *fields: str) -> Answer:
    """Ask for a tunnel, and read the answer."""
    client.sendall("\r\n".join((f"CONNECT {target} HTTP/1.1", "Host: x", *fields, "", "")).encode())
    return answer(client)


def answer(client: socket.socket) -> Answer:
    """The next response."""
    head = read_until(client, b"\r\n\r\n")
    line, *lines = head.decode("latin-1").rstrip().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    while len(body) < int(fields.get("content-length", "0")):
        piece = client.recv(65536)
        if not piece:
            raise ConnectionError(f"ended early, in the body: {head + body!r}")
        body += piece
    return Answer(status(head), line.rpartition(" ")[2], fields, body)


def basic(user: str, password: str) -> str:
    """A credential, as a field (RFC 7617)."""
    return f"Proxy-Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
