"""Hashes of passwords: how they are spelt, what they may cost, and what fits them.

R2, R7, R12, ATTACKS 8, 9. Costs are the lowest there are, but for one test, so that this takes no time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from proxyd.policy import password
from proxyd.policy.password import LOG_N, SALT_OCTETS, BadHash, P, PasswordHash, R, new_hash, parse_hash
from tests.policy.worlds import HASH, SESAME

SALT, DIGEST = HASH.split("$")[3:]


def spelt(costs: str = "ln=10,r=1,p=1", salt: str = SALT, digest: str = DIGEST) -> str:
    """A hash in PHC spelling."""
    return f"$scrypt${costs}${salt}${digest}"


def base64_of(octets: bytes) -> str:
    return base64.b64encode(octets).rstrip(b"=").decode()


def refused(text: str) -> str:
    """What is said of a hash that cannot be used."""
    with pytest.raises(BadHash) as bad:
        parse_hash(text)
    return str(bad.value)


# What fits


@pytest.mark.parametrize(
    ("log_n", "r", "p", "said", "salt", "digest"),
    [
        (4, 1, 1, "", b"", "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442"),
        (10, 8, 16, "password", b"NaCl", "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"),
        (
            14,
            8,
            1,
            "pleaseletmein",
            b"SodiumChloride",
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2",
        ),
    ],
)
def test_the_vectors_of_rfc_7914_fit(log_n: int, r: int, p: int, said: str, salt: bytes, digest: str) -> None:
    """§12; of each, the 32 octets that we would have kept."""
    known = PasswordHash(log_n, r, p, salt, bytes.fromhex(digest))
    assert known.fits(said)
    assert not known.fits(said + "x")


def test_the_password_fits_and_no_other() -> None:
    known = parse_hash(HASH)
    assert known.fits(SESAME)
    for other in ("", "open sesam", "open sesame ", "Open sesame", "open sesame\n", HASH):
        assert not known.fits(other)


def test_a_password_is_its_utf_8() -> None:
    digest = hashlib.scrypt("pässwört".encode(), salt=bytes(16), n=1 << 10, r=1, p=1, dklen=32)
    known = PasswordHash(10, 1, 1, bytes(16), digest)
    assert known.fits("pässwört")
    assert not known.fits("passwort")


@pytest.mark.parametrize("place", [0, 15, 31])
def test_r12_one_bit_of_the_hash_makes_another_password_of_it(place: int) -> None:
    known = parse_hash(HASH)
    digest = bytearray(known.digest)
    digest[place] ^= 1
    assert not PasswordHash(10, 1, 1, known.salt, bytes(digest)).fits(SESAME)


def test_all_octets_of_a_longer_hash_count() -> None:
    digest = hashlib.scrypt(SESAME.encode(), salt=bytes(16), n=1 << 10, r=1, p=1, dklen=64)
    assert parse_hash(spelt(salt=base64_of(bytes(16)), digest=base64_of(digest))).fits(SESAME)
    wrong = digest[:63] + bytes([digest[63] ^ 1])
    assert not parse_hash(spelt(salt=base64_of(bytes(16)), digest=base64_of(wrong))).fits(SESAME)


def test_attack_9_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a comparison octet by octet takes would tell how much of it is right."""
    compared: list[tuple[bytes, bytes]] = []

    def noted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return False

    monkeypatch.setattr(hmac, "compare_digest", noted)
    known = parse_hash(HASH)
    assert not known.fits(SESAME)
    assert compared == [(known.digest, known.digest)]


# New ones


def test_a_new_hash_fits_its_password_and_is_what_a_policy_may_have() -> None:
    salt = bytes(range(SALT_OCTETS))
    made = new_hash(SESAME, salt)
    assert (made.log_n, made.r, made.p, made.salt, len(made.digest)) == (LOG_N, R, P, salt, 32)
    assert parse_hash(str(made)) == made
    assert made.fits(SESAME)


def test_a_new_hash_costs_what_owasp_asks_for() -> None:
    assert (LOG_N, R, P) == (14, 8, 5)


def test_another_salt_makes_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password, "LOG_N", 10)
    assert new_hash(SESAME, bytes(16)).digest != new_hash(SESAME, bytes(15) + b"\x01").digest


# Spelling


def test_a_hash_is_read_as_it_is_spelt() -> None:
    known = parse_hash(HASH)
    assert (known.log_n, known.r, known.p, known.salt) == (10, 1, 1, bytes(range(16)))
    assert len(known.digest) == 32
    assert str(known) == HASH
    assert parse_hash(f"\n {HASH}\r\n") == known


@pytest.mark.parametrize(
    "text",
    [
        *("", SESAME, "$", "$scrypt$", HASH[1:], HASH + "$", HASH + "=", HASH.replace("scrypt", "SCRYPT")),
        *(HASH.replace("$scrypt$", "$2b$"), HASH.replace("ln=10,r=1", "r=1,ln=10"), HASH.replace("ln=", "n=")),
        *(HASH.replace("ln=10", "ln=-10"), HASH.replace("ln=10", "ln=010"), HASH.replace("ln=10", "ln=1 0")),
        *(HASH.replace(",p=1", ""), HASH.replace(SALT, ""), HASH.replace(DIGEST, ""), HASH + "\n" + HASH),
        *(HASH.replace("A", "_"), HASH.replace("ln=10", "ln=\u0661\u0660")),
        "$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0ODw$7w0mFuAflAam6vHw4Zcg2+InaSp2qhaVIWEWyD6kf8Q",
    ],
)
def test_r12_no_other_spelling_is_one(text: str) -> None:
    assert refused(text) == "it is not spelt $scrypt$ln=…,r=…,p=…$SALT$HASH"


@pytest.mark.parametrize("broken", [{"salt": "A" * 25}, {"digest": "A" * 45}])
def test_r12_what_is_no_base64_is_no_hash(broken: dict[str, str]) -> None:
    assert refused(spelt(**broken)) == "its salt or hash is not Base64"


@pytest.mark.parametrize(
    "short", [{"salt": base64_of(bytes(15))}, {"digest": base64_of(bytes(31))}, {"salt": "AA", "digest": "AA"}]
)
def test_r12_a_short_hash_is_none_as_it_could_be_hit_by_chance(short: dict[str, str]) -> None:
    assert refused(spelt(**short)) == "its salt has less than 16 octets, or its hash less than 32"


# Costs


@pytest.mark.parametrize(
    "costs",
    [
        *("ln=10,r=1,p=1", "ln=16,r=8,p=2", "ln=15,r=8,p=3", "ln=14,r=8,p=5", "ln=13,r=8,p=10", "ln=16,r=16,p=1"),
        *("ln=12,r=16,p=16", "ln=15,r=1,p=1"),
    ],
)
def test_costs_that_owasp_names_may_be_had_and_less(costs: str) -> None:
    assert parse_hash(spelt(costs)).fits(SESAME) is (costs == "ln=10,r=1,p=1")


@pytest.mark.parametrize(
    "costs",
    [
        *("ln=0,r=1,p=1", "ln=9,r=8,p=1", "ln=17,r=8,p=1", "ln=99,r=1,p=1", "ln=10,r=0,p=1", "ln=10,r=17,p=1"),
        *("ln=10,r=1,p=0", "ln=10,r=1,p=17", "ln=10,r=99,p=99"),
        pytest.param("ln=16,r=16,p=16", id="five seconds"),
        pytest.param("ln=16,r=8,p=3", id="just too much work"),
        pytest.param("ln=15,r=16,p=3", id="just too much work otherwise"),
        pytest.param("ln=16,r=1,p=1", id="no scrypt: N < 2^16r (RFC 7914 §6)"),
    ],
)
def test_attack_8_a_hash_that_costs_too_little_or_too_much_or_cannot_be_had_is_refused(costs: str) -> None:
    """Strangers make us pay for it; and what cannot be computed would be an error of each request."""
    assert refused(spelt(costs)).startswith("ln must be 10 to 16, r 1 to 16, p 1 to 16, 2^ln·r·p at most 1048576, or ")


# What is shown


def test_r7_attack_9_a_hash_is_not_shown() -> None:
    known = parse_hash(HASH)
    assert repr(known) == "PasswordHash(…)"
    assert repr([known]) == "[PasswordHash(…)]"


@pytest.mark.parametrize(
    "text", [SESAME, spelt("ln=99,r=1,p=1"), spelt(salt="AA"), spelt(salt="A" * 25), spelt(digest="x" * 45)]
)
def test_r7_what_is_refused_is_not_repeated(text: str) -> None:
    """It may be the password, written where its hash should be."""
    said = refused(text)
    for secret in (SESAME, SALT, DIGEST, "AAAA", "xxxx"):
        assert secret not in said


def test_a_hash_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        parse_hash(HASH).digest = b""  # type: ignore[misc]
