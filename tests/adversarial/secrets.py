"""Secrets to plant, each unlike any other, and a watch that finds each again in whatever spelling it took (ATTACKS 9).

A plant is made for one place, one door and one verdict, so that whatever is found says where it came from.
"""

from __future__ import annotations

import base64
import random
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.adversarial.doors import Answer
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

# No hexadecimal digit, so that no id or digest looks like one; both cases, so that folding shows.
_LETTERS = "ghijkmnpqrstuvwxyzGHJKMNPQRSTUVWXYZ"
_LENGTH = 24
PIECE = 8
"""Octets of a secret that give it away. One cut in two, by a record's end or by truncation, leaves a longer piece."""

_BASE64_PIECE = 10  # digits of base64 that hold seven octets and more
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|\\+x([0-9A-Fa-f]{2})|\\+u00([0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Plant:
    """A secret, and where it was put: "cookie, CONNECT, refused"."""

    secret: str
    where: str

    def written(self, template: bytes) -> bytes:
        """The template with the secret in its places, in the spelling that each asks for."""
        octets = self.secret.encode()
        spelt = {
            b"{t}": octets,
            b"{basic}": base64.b64encode(b"agent:" + octets),
            b"{percent}": b"".join(b"%%%02x" % octet for octet in octets),
        }
        for place, spelling in spelt.items():
            template = template.replace(place, spelling)
        return template


@dataclass(frozen=True)
class Find:
    """A plant that is where it must not be, or a piece of it."""

    plant: Plant
    spelling: str


class Finder:
    """Makes plants, and finds any piece of any of them in what somebody said."""

    def __init__(self, seed: int) -> None:
        self.plants: list[Plant] = []
        self._random = random.Random(seed)  # noqa: S311 - secret from nobody
        self._pieces: dict[str, dict[bytes, Find]] = {"folded": {}, "hex": {}, "base64": {}}

    def plant(self, where: str) -> Plant:
        """A new secret for one place, without any piece that another one has."""
        while True:
            plant = Plant("".join(self._random.choices(_LETTERS, k=_LENGTH)), where)
            pieces = list(_pieces(plant.secret.encode()))
            if not any(piece in self._pieces[kind] for kind, _, piece in pieces):
                break
        for kind, spelling, piece in pieces:
            self._pieces[kind][piece] = Find(plant, spelling)
        self.plants.append(plant)
        return plant

    def find(self, said: bytes) -> set[Find]:
        """Every plant of which a piece is in `said`, as it stands or behind escapes."""
        views = {said, _ESCAPE.sub(_unescaped, said)}
        folded = {view.lower() for view in views}
        return {
            *self._among("folded", PIECE, folded),
            *self._among("hex", 2 * PIECE, folded),
            *self._among("base64", _BASE64_PIECE, views),
        }

    def _among(self, kind: str, size: int, views: set[bytes]) -> Iterator[Find]:
        known = self._pieces[kind]
        for view in views:
            yield from (
                known[view[at : at + size]] for at in range(len(view) - size + 1) if view[at : at + size] in known
            )


def _unescaped(escape: re.Match[bytes]) -> bytes:
    digits = escape[1] or escape[2] or escape[3]
    return bytes([int(digits, 16)])


def _pieces(secret: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Every piece of a secret in every spelling: which table it belongs to, the spelling's name, the piece."""
    lower = secret.lower()
    for spelling, text in (("verbatim", lower), ("reversed", lower[::-1])):
        yield from (("folded", spelling, piece) for piece in _cut(text, PIECE))
    for case in (secret, lower):
        yield from (("hex", "hex", piece) for piece in _cut(case.hex().encode(), 2 * PIECE))
        for offset in range(3):  # where in a group of three octets the secret begins
            digits = base64.b64encode(b"\0" * offset + case)
            whole = digits[(8 * offset + 5) // 6 : 8 * (offset + len(case)) // 6]
            yield from (("base64", "base64", piece) for piece in _cut(whole, _BASE64_PIECE))


def _cut(text: bytes, size: int) -> Iterator[bytes]:
    return (text[at : at + size] for at in range(len(text) - size + 1))


SHARED = {f"/memfd:proxyd-{what} (deleted)": what for what in ("limits", "tally")}
"""The memory that all workers share: counts, and no word of a request."""


@dataclass
class Watch:
    """Hears what everybody said, and keeps what was found there and must not be."""

    finder: Finder = field(default_factory=lambda: Finder(seed=9))
    surfaces: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    doors: set[str] = field(default_factory=set)
    leaks: list[str] = field(default_factory=list)
    _told: int = 0

    def plant(self, place: str, door: str, verdict: str) -> Plant:
        """A secret for this place, door and verdict."""
        self.places.add(place)
        self.doors.add(door)
        return self.finder.plant(f"{place}, {door}, {verdict}")

    def look(self, surface: str, said: bytes, may: Collection[Plant] = ()) -> set[Plant]:
        """Search what was said there; `may` are the plants that belong there. The plants that were found."""
        self.surfaces.add(surface)
        found = self.finder.find(said)
        self.leaks += [f"{surface}: {find.plant.where}, {find.spelling}" for find in found if find.plant not in may]
        return {find.plant for find in found}

    def hear(self, answer: Answer, own: Plant) -> bool:
        """Search an answer: whether its own secret is in it, which only an origin may have put there."""
        refused = answer.status >= 400
        return own in self.look("refusals" if refused else "answers", answer.raw, () if refused else (own,))

    def look_at(self, proxy: Daemon, may: Collection[Plant] = ()) -> None:
        """Search the supervisor and its workers while they run; `may` are those that the environment was given."""
        workers = proxy.workers()
        assert workers, "nobody serves"
        for pid in (proxy.pid, *workers):
            proc = Path(f"/proc/{pid}")
            self.look(
                "process title",
                (proc / "cmdline").read_bytes() + b"".join(each.read_bytes() for each in proc.glob("task/*/comm")),
            )
            self.look("environment", (proc / "environ").read_bytes(), may)
            files = set()
            for descriptor in (proc / "fd").iterdir():
                with suppress(FileNotFoundError):  # a connection that was closed by now
                    files.add(str(descriptor.readlink()))
                    if what := SHARED.get(str(descriptor.readlink())):
                        self.look(f"memory of the {what}", descriptor.read_bytes().replace(bytes(64), b"\0"))
            ours = {str(proxy.audit), str(proxy.errors), *SHARED}
            assert [file for file in files - ours if re.match(r"/(?!dev/)", file)] == [], "nothing is spooled to a file"

    def look_behind(self, scene: Scene, proxy: Daemon, at_origin: Collection[Plant] = ()) -> None:
        """Search what the process wrote, asked and sent, once it ended."""
        self.look_at(proxy)
        assert proxy.stop() == 0
        self.look("stdout", proxy.audit.read_bytes())
        self.look("stderr", proxy.errors.read_bytes())
        self.look("origin", b"".join(scene.origin.heads + scene.origin.bodies), at_origin)
        self.look("DNS questions", "\n".join(name for name, _ in scene.nameserver.asked).encode())
        assert self.fresh() == []

    def fresh(self) -> list[str]:
        """The leaks that no test has been told of yet."""
        told, self._told = self._told, len(self.leaks)
        return self.leaks[told:]


@dataclass(frozen=True)
class Place:
    """Where in a request a secret stands: in its path, its fields (each line with its CRLF) or its body.

    authority: the destination; {at} is the one that is asked for. travels: whether the origin of a plain request shall
    get the secret.
    """

    path: bytes = b"/"
    fields: bytes = b""
    body: bytes = b""
    authority: bytes = b"{at}"
    travels: bool = True


PLACES: dict[str, Place] = {
    "Basic credentials": Place(fields=b"Authorization: Basic {basic}\r\n"),
    "bearer token": Place(fields=b"Authorization: Bearer {t}\r\n"),
    "cookie": Place(fields=b"Cookie: a=b; session={t}\r\n"),
    "API key in a field": Place(fields=b"X-Api-Key: {t}\r\n"),
    "name of a field": Place(fields=b"X-{t}: 1\r\n"),
    "behind octets that are no UTF-8": Place(fields=b"X-Note: \xff\xfe{t}\r\n"),
    "URL of a Referer": Place(fields=b"Referer: https://agent:{t}@origin.test/\r\n"),
    "token of a cloud account": Place(fields=b"X-Amz-Security-Token: {t}\r\n"),
    "Via": Place(fields=b"Via: 1.1 {t}\r\n"),
    "bot token in the path": Place(path=b"/bot8123456789:{t}/getMe"),
    "key in the query": Place(path=b"/v1?key={t}&alt=json"),
    "percent-encoded in the path": Place(path=b"/%7e/{percent}"),
    "body": Place(body=b'{"password": "{t}"}'),
    "Proxy-Authorization: Basic": Place(fields=b"Proxy-Authorization: Basic {basic}\r\n", travels=False),
    "Proxy-Authorization: Bearer": Place(fields=b"Proxy-Authorization: Bearer {t}\r\n", travels=False),
    "Proxy-Connection": Place(fields=b"Proxy-Connection: keep-alive, {t}\r\n", travels=False),
    "an unheard-of Proxy-Token": Place(fields=b"Proxy-Token: {t}\r\n", travels=False),
    "Proxy-Status": Place(fields=b"Proxy-Status: {t}\r\n", travels=False),
    "Keep-Alive": Place(fields=b"Keep-Alive: timeout=5, {t}\r\n", travels=False),
    "TE": Place(fields=b"TE: {t}\r\n", travels=False),
    "Upgrade": Place(fields=b"Upgrade: {t}\r\n", travels=False),
    "a field that Connection names": Place(fields=b"Connection: X-Hop\r\nX-Hop: {t}\r\n", travels=False),
    "an option of Connection": Place(fields=b"Connection: {t}\r\n", travels=False),
}
"""In requests that are well formed."""

_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_LONG = b"X-Long: " + b"x" * 33 * 1024 + b"\r\n"

MALFORMED: dict[str, Place] = {
    "userinfo": Place(authority=b"agent:{t}@{at}"),
    "fragment": Place(authority=b"{at}#{t}"),
    "port": Place(authority=b"origin.test:{t}"),
    "port behind a port": Place(authority=b"{at}:{t}"),
    "empty label": Place(authority=b"origin..{t}:80"),
    "label before a number": Place(authority=b"{t}.1:80"),
    "percent in the host": Place(authority=b"origin.test%00{t}:80"),
    "zone": Place(authority=b"[fe80::1%25{t}]:80"),
    "label that is too long": Place(authority=b"{t}" + b"a" * 60 + b".test:80"),
    "octets that are no UTF-8 in the target": Place(authority=b"\xc3\x28{t}.test:80"),
    "NUL in the target": Place(authority=b"\0{t}.test:80"),
    "space in the target": Place(authority=b"{at} {t}"),
    "version": Place(authority=b"{at} HTTP/1.1{t}\r\nX-Rest:"),
    "name of the version": Place(authority=b"{at} {t}/1.1\r\nX-Rest:"),
    "HTTP/0.9": Place(authority=b"{at}/{t}\r\n\r\n"),
    "field without a colon": Place(fields=b"Authorization {t}\r\n"),
    "space before the colon": Place(fields=b"Authorization{t} : x\r\n"),
    "field without a name": Place(fields=b": {t}\r\n"),
    "name that is no token": Place(fields=b"X({t}): x\r\n"),
    "name that is no UTF-8": Place(fields=b"X\xff{t}: x\r\n"),
    "folded line": Place(fields=b"Authorization: Bearer\r\n {t}\r\n"),
    "NUL before it": Place(fields=b"Cookie: \0{t}\r\n"),
    "escape sequence before it": Place(fields=b"Cookie: \x1b[31m{t}\r\n"),
    "LF before it": Place(fields=b"Cookie: a\n{t}: b\r\n"),
    "CR before it": Place(fields=b"Cookie: a\r{t}\r\n"),
    "second Content-Length": Place(fields=b"Content-Length: 0\r\nContent-Length: {t}\r\n"),
    "Transfer-Encoding": Place(fields=b"Transfer-Encoding: {t}\r\n"),
    "second Host": Place(fields=b"Host: a\r\nHost: {t}\r\n"),
    "length and chunks": Place(fields=b"Content-Length: 24\r\nTransfer-Encoding: chunked\r\nCookie: {t}\r\n"),
    "size of a chunk": Place(fields=_CHUNKED + b"{t}\r\n"),
    "extension of a chunk": Place(fields=_CHUNKED + b"1;a={t}\nx\r\n"),
    "behind a chunk": Place(fields=_CHUNKED + b"1\r\nx{t}\r\n0\r\n"),
    "folded trailer": Place(fields=_CHUNKED + b"0\r\nX-Sum: a\r\n {t}\r\n"),
    "trailer without a colon": Place(fields=_CHUNKED + b"0\r\n{t}\r\n"),
    "head that is too long, before the limit": Place(fields=b"Cookie: {t}\r\n" + _LONG),
    "head that is too long, after the limit": Place(fields=_LONG + b"Cookie: {t}\r\n"),
    "too many fields": Place(fields=b"Cookie: {t}\r\n" * 300),
}
"""In requests that cannot be read in exactly one way."""

RAW: dict[str, bytes] = {
    "method that nobody registered": b"{t} http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "method that is no token": b"GET({t}) http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "method that is no UTF-8": b"\xff{t} http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "origin-form": b"GET /bot{t} HTTP/1.1\r\nHost: x\r\n\r\n",
    "https target": b"GET https://origin.test/{t} HTTP/1.1\r\nHost: x\r\n\r\n",
    "another scheme": b"GET {t}://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT to a URL": b"CONNECT https://agent:{t}@origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT without a port": b"CONNECT {t} HTTP/1.1\r\nHost: x\r\n\r\n",
    "expectation": b"PUT http://origin.test/ HTTP/1.1\r\nHost: x\r\nExpect: {t}\r\n\r\n",
    "hops": b"OPTIONS http://origin.test/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: {t}\r\n\r\n",
    "TRACE": b"TRACE http://origin.test/{t} HTTP/1.1\r\nHost: x\r\nCookie: {t}\r\n\r\n",
    "one word": b"{t}\r\n\r\n",
    "server name of a TLS ClientHello": b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03{t}.example.org",
}
"""Whole requests that no door sends."""


@dataclass(frozen=True)
class Reply:
    """An origin's answer that has a secret in it. reaches: whether the client shall get that."""

    octets: bytes
    reaches: bool = False


_OK = b"HTTP/1.1 200 OK\r\n"
_EMPTY = b"Content-Length: 0\r\n\r\n"

REPLIES: dict[str, Reply] = {
    "Set-Cookie": Reply(_OK + b"Set-Cookie: session={t}\r\n" + _EMPTY, reaches=True),
    "Location": Reply(b"HTTP/1.1 302 Found\r\nLocation: https://a:{t}@h.test/?k={t}\r\n" + _EMPTY, reaches=True),
    "body": Reply(_OK + b"Content-Length: 24\r\n\r\n{t}", reaches=True),
    "reason phrase": Reply(b"HTTP/1.1 200 {t}\r\n" + _EMPTY, reaches=True),
    "body of an error": Reply(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 24\r\n\r\n{t}", reaches=True),
    "Proxy-Status in our name": Reply(_OK + b'Proxy-Status: proxyd; details="{t}"\r\n' + _EMPTY),
    "field that Connection names": Reply(_OK + b"Connection: X-Hop\r\nX-Hop: {t}\r\n" + _EMPTY),
    "Proxy-Authenticate": Reply(_OK + b'Proxy-Authenticate: Basic realm="{t}"\r\n' + _EMPTY),
    "407": Reply(b'HTTP/1.1 407 {t}\r\nProxy-Authenticate: Basic realm="{t}"\r\n' + _EMPTY),
    "version": Reply(b"HTTP/{t} 200 OK\r\n" + _EMPTY),
    "no HTTP at all": Reply(b"220 {t} ESMTP\r\n\r\n"),
    "field without a colon": Reply(_OK + b"Set-Cookie {t}\r\n" + _EMPTY),
    "folded line": Reply(_OK + b"Set-Cookie: a\r\n {t}\r\n" + _EMPTY),
    "NUL": Reply(_OK + b"Set-Cookie: \0{t}\r\n" + _EMPTY),
    "LF": Reply(b"HTTP/1.1 200 OK\nSet-Cookie: {t}\n\n"),
    "two lengths": Reply(_OK + b"Set-Cookie: {t}\r\nContent-Length: 1\r\n" + _EMPTY),
    "coding": Reply(_OK + b"Transfer-Encoding: {t}\r\n\r\n"),
    "head that is too long": Reply(_OK + b"Set-Cookie: {t}\r\n" + _LONG + _EMPTY),
    "head that breaks off": Reply(_OK + b"Set-Cookie: {t}"),
    "101 that nobody asked for": Reply(b"HTTP/1.1 101 {t}\r\nUpgrade: {t}\r\nConnection: Upgrade\r\n\r\n"),
}
"""The last ones are malformed; a 502 must not repeat them."""

_HELLO = b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03{t}.example.org"

IN_FLIGHT: dict[str, tuple[bytes, bytes]] = {
    "half a head": (b"GET http://{at}/{t} HTTP/1.1\r\nCookie: {t}\r\nX: {t}", b""),
    "half a body": (b"POST http://{at}/ HTTP/1.1\r\nHost: x\r\nCookie: {t}\r\nContent-Length: 99\r\n\r\n{t}", b""),
    "half a chunk": (b"POST http://{at}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n{t}", b""),
    "a ClientHello in a tunnel": (b"CONNECT {at} HTTP/1.1\r\nHost: x\r\nCookie: {t}\r\n\r\n" + _HELLO, b" 200 "),
    "a lookup": (b"GET http://silent.test/{t} HTTP/1.1\r\nHost: x\r\nCookie: {t}\r\n\r\n", b""),
    "an upgrade": (
        b"GET http://{at}/{t} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{t}",
        b" 101 ",
    ),
}
"""What a client has sent of a request that stands half done, and what it has heard by then."""

SECTIONS = {
    "schema": 'schema = 1\nname = "test"\n',
    "listen": '[listen]\nhttp = ["127.0.0.1:3128"]\n',
    "destinations": '[destinations]\ndefault = "allow"\n',
    "client": '[[client]]\nname = "tester"\nnetworks = ["127.0.0.0/8"]\n',
}
"""A policy, section by section."""

TYPED: dict[str, tuple[str, str]] = {
    "listener": ("listen", '[listen]\nhttp = ["http://agent:{t}@127.0.0.1:3128"]'),
    "resolver": ("dns", '[dns]\nservers = ["agent:{t}@9.9.9.9"]'),
    "resolver's URL": ("dns", '[dns]\nservers = ["https://dns.example/{t}/dns-query"]'),
    "sink": ("audit", '[audit]\nto = "https://agent:{t}@log.example/"'),
    "client's network": ("client", '[[client]]\nname = "tester"\nnetworks = ["agent:{t}@127.0.0.0/8"]'),
    "denied host": ("deny", '[[deny]]\nname = "x"\nreason = "x"\nhosts = ["http://agent:{t}@h.example/"]'),
    "permitted host": (
        "permit",
        '[[permit]]\nhost = "http://h.example/bot{t}"\nports = [80]\nnetworks = ["10.0.0.0/8"]\nreason = "x"',
    ),
    "URL of a test": ("test", '[[test]]\nurl = "http://agent:{t}@h.example/"\nexpect = "deny"'),
    "scheme of a test's URL": ("test", '[[test]]\nurl = "ftp://h.example/bot{t}/?key={t}"\nexpect = "deny"'),
    "path of a test that fails": ("test", '[[test]]\nurl = "http://10.0.0.5/bot{t}?key={t}"\nexpect = "allow"'),
    "included file": ("schema", 'schema = 1\nname = "test"\ninclude = ["https://agent:{t}@h.example/deny.toml"]\n'),
    "value without quotes": ("test", "[[test]]\nurl = {t}"),
    "line that is no TOML": ("test", '[[test]]\nurl = "http://agent:{t}@h.example/'),
}
"""Mistakes in a policy, each with the section that it replaces or adds."""

EXPLAINED = (
    *(
        "http://agent:{t}@h.example/",
        "http://h.example/bot123:{t}/",
        "http://h.example/?key={t}",
        "http://h.example#{t}",
    ),
    *("ftp://agent:{t}@h.example/", "agent:{t}@h.example:443", "http://h.example:{t}/", "http://10.0.0.5/bot123:{t}/"),
)
"""URLs to have explained."""
