"""Passwords, known only by their scrypt hash (RFC 7914), spelt as the PHC string format has it.

    $scrypt$ln=14,r=8,p=5$SALT$HASH

The costs are bounded: a hash that took seconds or gigabytes to check would let strangers stop us. The password
itself is never kept here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

LOG_N, R, P = 14, 8, 5
"""The costs of a new hash: 16 MiB, a fifth of a second (OWASP Password Storage Cheat Sheet)."""

SALT_OCTETS: Final = 16
_HASH_OCTETS: Final = 32
_LOWEST_LOG_N, _HIGHEST_LOG_N, _HIGHEST_R, _HIGHEST_P = 10, 16, 16, 16
_MOST_WORK: Final = 1 << 20  # N·r·p: a third of a second, and 128 MiB where p is 1
_MOST_MEMORY: Final = 129 * 1024 * 1024  # as OpenSSL counts it
_PHC: Final = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")


class BadHash(ValueError):  # noqa: N818 - said to the policy's author
    """The text is no hash that can be used; it is never repeated."""


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A hash, and what it was made with."""

    log_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def fits(self, password: str) -> bool:
        """Whether this is the password. It takes its time, by design, and the same whether it is or not."""
        found = _scrypt(password, self.salt, self.log_n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(found, self.digest)

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(each).rstrip(b"=").decode() for each in (self.salt, self.digest))
        return f"$scrypt$ln={self.log_n},r={self.r},p={self.p}${salt}${digest}"

    def __repr__(self) -> str:
        return "PasswordHash(…)"


def new_hash(password: str, salt: bytes) -> PasswordHash:
    """The hash of a new password. salt: SALT_OCTETS random ones."""
    return PasswordHash(LOG_N, R, P, salt, _scrypt(password, salt, LOG_N, R, P, _HASH_OCTETS))


def parse_hash(text: str) -> PasswordHash:
    """A hash from its PHC spelling. Raises BadHash."""
    found = _PHC.fullmatch(text.strip())
    if found is None:
        raise BadHash("it is not spelt $scrypt$ln=…,r=…,p=…$SALT$HASH")
    log_n, r, p = (int(each) for each in found.groups()[:3])
    bounded = _LOWEST_LOG_N <= log_n <= _HIGHEST_LOG_N and 1 <= r <= _HIGHEST_R and 1 <= p <= _HIGHEST_P
    if not bounded or log_n >= 16 * r or r * p << log_n > _MOST_WORK:  # N < 2^16r, RFC 7914 §6
        raise BadHash(
            f"ln must be {_LOWEST_LOG_N} to {_HIGHEST_LOG_N}, r 1 to {_HIGHEST_R}, p 1 to {_HIGHEST_P}, "
            f"2^ln·r·p at most {_MOST_WORK}, or checking it costs too little or too much"
        )
    try:
        salt, digest = (base64.b64decode(each + "=" * (-len(each) % 4), validate=True) for each in found.groups()[3:])
    except binascii.Error:
        raise BadHash("its salt or hash is not Base64") from None
    if len(salt) < SALT_OCTETS or len(digest) < _HASH_OCTETS:
        raise BadHash(f"its salt has less than {SALT_OCTETS} octets, or its hash less than {_HASH_OCTETS}")
    return PasswordHash(log_n, r, p, salt, digest)


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int, length: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << log_n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=length)
