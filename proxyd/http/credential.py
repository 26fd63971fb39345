"""The credential that a request shows to the proxy: Proxy-Authorization with the Basic scheme (RFC 7617).

Whether it is anybody's is not known here. It is never forwarded, logged or shown.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxyd.http.framing import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Shown:
    """A user name and a password, as a client sent them."""

    user: str
    password: str = field(repr=False)


def shown_credential(fields: Iterable[tuple[bytes, bytes]]) -> Shown | None:
    """What the request shows, if it is a Basic credential. Raises Malformed where there are several.

    fields: of the head, names in lower case.
    """
    values = [value for name, value in fields if name == b"proxy-authorization"]
    if len(values) > 1:
        raise Malformed("two credentials are one too many")
    scheme, _, encoded = values[0].partition(b" ") if values else (b"", b"", b"")
    if scheme.lower() != b"basic":
        return None
    try:
        octets = base64.b64decode(encoded)
        text = octets.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    if base64.b64encode(octets) != encoded.strip(b" ") or _CONTROLS.search(text):
        return None  # it has one spelling; and a NUL behind a password is nothing to PBKDF2 (RFC 7617 §2)
    user, colon, password = text.partition(":")
    return Shown(user, password) if colon else None
