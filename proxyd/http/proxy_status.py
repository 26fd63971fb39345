"""Proxy-Status (RFC 9209): who refused. Nobody else's member bears our name, and ours is told from what others quote.

Pure, and without h11: what only asks a proxy needs no more than this.
"""

from __future__ import annotations

from typing import Final

OUR_NAME: Final = "proxyd"
"""Our name in it (RFC 9209 §2)."""

_LONGEST: Final = 2048  # octets of a Proxy-Status that are worth reading
_COMMA, _QUOTE, _BACKSLASH = b',"\\'


def members_of_others(value: bytes) -> bytes:
    """What is left of a field without members that bear our name; nothing of one whose quotes do not end."""
    if len(value) > _LONGEST:
        return b""
    members = (member.strip(b" \t") for member in _structured_list(value))
    return b", ".join(member for member in members if member and not _is_ours(member))


def has_our_refusal(value: bytes) -> bool:
    """Whether it says that proxyd itself refused: from an origin no such member passes us (R11)."""
    refusals = (member for member in _structured_list(value) if _is_ours(member))
    return any(member.partition(b";")[2].strip(b" \t").startswith(b"error=") for member in refusals)


def _structured_list(value: bytes) -> list[bytes]:
    """The members of a list (RFC 8941 §3.1); none if a quoted string does not end."""
    members, begin = [], 0
    quoted = escaped = False
    for at, octet in enumerate(value):
        if quoted:
            quoted = escaped or octet != _QUOTE
            escaped = not escaped and octet == _BACKSLASH
        elif octet == _QUOTE:
            quoted = True
        elif octet == _COMMA:
            members.append(value[begin:at])
            begin = at + 1
    return [] if quoted else [*members, value[begin:]]


def _is_ours(member: bytes) -> bool:
    return member.partition(b";")[0].strip(b' \t"').lower() == OUR_NAME.encode()
