"""What scripts on bare sockets do: HTTP/1.0 to the proxy, no Host, one connection a request."""

import base64
import socket
import ssl
import urllib.parse

from tests.adversarial.clients import PATIENCE, PIECE, command_line, tell, tell_error

proxy_text, authority, _, urls = command_line()
proxy = urllib.parse.urlsplit(proxy_text)
credentials = ""
if proxy.username is not None:
    pair = f"{proxy.username}:{urllib.parse.unquote(proxy.password or '')}"
    credentials = f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def head_and_rest(connection: socket.socket) -> tuple[int, str, bytes]:
    """Status, reason, and what came behind the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(PIECE) or b"HTTP/1.1 000 Ended early\r\n\r\n"
    head, _, rest = data.partition(b"\r\n\r\n")
    _, status, reason = head.partition(b"\r\n")[0].decode().split(" ", 2)
    return int(status), reason, rest


def ask(connection: socket.socket, request: str) -> None:
    """One exchange whose end is the end of the connection."""
    connection.sendall(request.encode())
    status, reason, rest = head_and_rest(connection)
    tell(status, reason, [rest, *iter(lambda: connection.recv(PIECE), b"")])


def tunnelled(connection: socket.socket, url: urllib.parse.SplitResult) -> None:
    """One exchange over TLS through a tunnel."""
    target = url.netloc if url.port else f"{url.netloc}:443"
    connection.sendall(f"CONNECT {target} HTTP/1.0\r\n{credentials}\r\n".encode())
    status, reason, rest = head_and_rest(connection)
    if status != 200 or rest:
        tell_error(f"CONNECT: {status} {reason}")
        return
    trust = ssl.create_default_context(cafile=authority)
    with trust.wrap_socket(connection, server_hostname=url.hostname) as inner:
        ask(inner, f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n")


for text in urls:
    with socket.create_connection((proxy.hostname, proxy.port or 80), PATIENCE) as client:
        try:
            if text.startswith("https:"):
                tunnelled(client, urllib.parse.urlsplit(text))
            else:
                ask(client, f"GET {text} HTTP/1.0\r\n{credentials}\r\n")
        except OSError as broken:
            tell_error(broken)
