"""The name in a ClientHello: read in one way, in whatever pieces it comes, and never out of what is none (ATTACKS 4.3).

The good ones are those of OpenSSL; the bad ones are made by hand (`hellos`).
"""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxyd.http.client_hello import ALERT_UNRECOGNIZED_NAME, MAX_OCTETS, ClientHello, HelloReader, NotTls
from tests.http.hellos import GOOD, HEADER, NAME, body, extension, hello, message, records, server_name, vector


def read(*pieces: bytes) -> ClientHello | None:
    """What is heard of a stream that comes in these pieces."""
    reader = HelloReader()
    for piece in pieces:
        if (heard := reader.hear(piece)) is not None:
            return heard
    return None


def is_no_tls(stream: bytes) -> None:
    """Hold that it is refused, at once and octet by octet."""
    for pieces in ([stream], [bytes([octet]) for octet in stream]):
        with pytest.raises(NotTls):
            read(*pieces)


good = pytest.mark.parametrize(("stream", "name"), GOOD.values(), ids=GOOD.keys())


# What is one


@good
def test_attack_4_2_the_name_of_a_real_client_hello_is_read(stream: bytes, name: str | None) -> None:
    assert read(stream) == ClientHello(name, encrypted=False)


@good
def test_attack_4_3_it_is_the_same_in_any_two_segments_and_octet_by_octet(stream: bytes, name: str | None) -> None:
    """And not before its last octet is there."""
    for at in range(1, len(stream)):
        reader = HelloReader()
        assert reader.hear(stream[:at]) is None
        assert reader.hear(stream[at:]) == ClientHello(name, encrypted=False)
    assert read(*(bytes([octet]) for octet in stream)) == ClientHello(name, encrypted=False)


@good
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 500])
def test_attack_4_3_it_is_the_same_in_records_of_any_size(stream: bytes, name: str | None, size: int) -> None:
    split = records(stream[HEADER:], size)
    for pieces in ([split], [bytes([octet]) for octet in split]):
        assert read(*pieces) == ClientHello(name, encrypted=False)


@given(
    which=st.sampled_from(sorted(GOOD)),
    sizes=st.lists(st.integers(1, 700), max_size=20),
    cuts=st.lists(st.integers(0, 1200), max_size=20),
    behind=st.binary(max_size=50),
)
def test_attack_4_3_no_prefix_of_a_good_one_is_refused_however_it_is_cut(
    which: str, sizes: list[int], cuts: list[int], behind: bytes
) -> None:
    """Records and segments of any sizes, and anything behind it: early data, or what no server would take."""
    stream, name = GOOD[which]
    content, split = stream[HEADER:], b""
    for size in sizes:
        split += records(content[:size])
        content = content[size:]
    split += records(content)
    reader, at = HelloReader(), 0
    for cut in sorted(min(each, len(split) - 1) for each in cuts):
        assert reader.hear(split[at:cut]) is None
        at = cut
    assert reader.hear(split[at:] + behind) == ClientHello(name, encrypted=False)


def test_a_name_is_compared_without_case_and_without_the_final_dot() -> None:
    """ATTACKS 1.1, 1.2. One dot, and no more: what is left is no host's normal form."""
    for spelt, name in ((b"API.Example.COM", NAME), (b"api.example.com.", NAME), (b"api.example.com..", NAME + ".")):
        assert read(hello(server_name(spelt))) == ClientHello(name, encrypted=False)


@pytest.mark.parametrize("spelt", [b"a b", b"a\0b", b"a\x7f", b"*", b".", b"93.184.216.34", b"[::1]", b"a%2eb"])
def test_what_no_host_is_called_is_handed_on_for_what_it_is(spelt: bytes) -> None:
    """Whether it is the one asked for is not known here; it never is."""
    assert read(hello(server_name(spelt))) == ClientHello(spelt.decode().removesuffix("."), encrypted=False)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_attack_4_2_an_encrypted_client_hello_is_noticed_and_the_outer_name_is_read(place: int) -> None:
    """RFC 9849: a real one looks like the pretence that some clients always send (§6.2)."""
    extensions = [server_name(NAME.encode()), extension(10, b"\0\2\0\x1d")]
    extensions.insert(place, extension(0xFE0D, b"\0" + bytes(60)))
    assert read(hello(*extensions)) == ClientHello(NAME, encrypted=True)
    assert read(hello(extension(0xFE0D, b""))) == ClientHello(None, encrypted=True)


def test_the_version_of_a_record_says_nothing_but_its_first_octet() -> None:
    """RFC 8446 §5.1: "MUST be ignored for all purposes"; and the message's own is 3.x for ever."""
    for minor in range(256):
        content = message(body(server_name(NAME.encode()), version=bytes([3, minor])))
        assert read(records(content, version=bytes([3, minor]))) == ClientHello(NAME, encrypted=False)


# What is none, or could be read in two ways


@pytest.mark.parametrize(
    "stream",
    [
        hello(server_name(b"a.example", b"b.example")),
        hello(server_name(b"a.example", b"a.example")),
        hello(server_name(b"a.example"), server_name(b"b.example")),
        hello(server_name(b"a.example"), server_name(b"a.example")),
        hello(server_name(b"a.example"), extension(21, b""), extension(21, b"")),
        hello(server_name(b"a.example", kind=1)),
        hello(server_name()),
        hello(server_name(b"")),
        hello(extension(0, b"")),
        hello(extension(0, vector(2, b"\0" + vector(2, b"a.example")) + b"\0")),
        hello(server_name("bücher.example".encode())),
        hello(server_name(b"a.example\xff")),
    ],
    ids=[
        *("two names", "a name twice", "two extensions of names", "the same extension twice", "any extension twice"),
        *("another kind of name", "no name in the list", "an empty name", "an empty extension"),
        *("something behind the list", "a name in UTF-8", "a name in nothing"),
    ],
)
def test_attack_4_3_a_name_that_could_be_read_in_two_ways_is_not_read(stream: bytes) -> None:
    is_no_tls(stream)


def test_attack_4_3_something_behind_the_extensions_is_refused() -> None:
    is_no_tls(records(message(body(server_name(b"a.example"), behind=b"\0"))))
    is_no_tls(records(message(body()[:-2] + b"\0")))


def test_attack_4_3_lengths_that_lie_are_refused() -> None:
    """Each length there is, one too long, one too short and as long as can be; of the whole message, one too short."""
    content = body(server_name(b"a.example"), extension(10, b"\0\2\0\x1d"))
    lengths = {"extensions": (75, 2), "extension": (79, 2), "list": (81, 2), "name": (84, 2), "next": (97, 2)}
    for what, (at, width) in lengths.items():
        length = int.from_bytes(content[at : at + width], "big")
        for lie in (length - 1, length + 1, (1 << 8 * width) - 1):
            lying = content[:at] + lie.to_bytes(width, "big") + content[at + width :]
            with pytest.raises(NotTls):
                raise AssertionError((what, lie, read(records(message(lying)))))
    is_no_tls(records(b"\1" + (len(content) - 1).to_bytes(3, "big") + content))
    assert read(records(message(content))) == ClientHello("a.example", encrypted=False)


@pytest.mark.parametrize(("at", "width"), [(34, 1), (67, 2), (73, 1)], ids=["session", "suites", "compression"])
def test_attack_4_3_no_lie_before_the_extensions_makes_another_name_of_it(at: int, width: int) -> None:
    """Those fields may hold anything: then there is this name, or none."""
    content = body(server_name(b"a.example"))
    for lie in range(256):
        lying = content[:at] + lie.to_bytes(width, "big") + content[at + width :]
        with suppress(NotTls):
            heard = read(records(message(lying)))
            assert heard is not None
            assert heard.name in ("a.example", None)


def test_attack_4_3_one_that_says_it_is_longer_is_waited_for_and_no_more() -> None:
    content = body(server_name(b"a.example"))
    assert read(records(b"\1" + (len(content) + 1).to_bytes(3, "big") + content)) is None


@pytest.mark.parametrize("cut", [0, 1, 2, 33, 34, 35, 70, 74, 75, 76, 78, 82])
def test_attack_4_3_one_that_ends_in_the_middle_of_a_field_is_refused(cut: int) -> None:
    """The message says that it is complete."""
    content = body(server_name(b"a.example"))[:cut]
    if cut == 75:
        assert read(records(message(content))) is not None, "there the extensions would begin, which need not be"
    else:
        is_no_tls(records(message(content)))


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"EHLO a.example\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80",
        b"\x16\x02\x00\x00\x05",
        b"\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40",
        b"\x15\x03\x03\x00\x02\x01\x00" + GOOD["TLS 1.3"][0],
        b"\x14\x03\x03\x00\x01\x01" + GOOD["TLS 1.3"][0],
        b"\x17\x03\x03\x00\x01\x01",
        b"\x16\x03\x01\x00\x00" + GOOD["TLS 1.3"][0],
        b"\x16\x03\x01\x40\x01\x01",
        records(message(body(server_name(b"a.example")), kind=2)),
        records(message(b"", kind=0)),
        records(message(b"")),
        records(message(body(server_name(b"a.example"), version=b"\x02\x03"))),
        records(message(body(server_name(b"a.example")))[:20]) + b"\x17\x03\x03\x00\x01\x01",
        records(message(body(server_name(b"a.example")))[:20]) + b"GET /",
    ],
    ids=[
        *("HTTP", "SSH", "SMTP", "HTTP/2", "NUL", "SSLv2", "SSL 2 in a record", "DTLS", "an alert before"),
        *("a change of cipher before", "data", "an empty record", "a record too long", "another handshake message"),
        *("a HelloRequest", "an empty ClientHello", "another version inside", "data within", "HTTP within"),
    ],
)
def test_attack_4_3_what_is_no_client_hello_is_told_from_one(stream: bytes) -> None:
    is_no_tls(stream)


def test_attack_4_3_what_is_no_tls_is_refused_at_its_first_wrong_octet() -> None:
    """Nobody waits for the rest of an HTTP request."""
    for stream in (b"G", b"\x16G", b"\x80", b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\1\2"):
        assert read(stream[:-1]) is None
        is_no_tls(stream)


# How much


def padded(octets: int) -> bytes:
    """A ClientHello that takes so many octets, headers and all."""
    stream = records(message(body(server_name(NAME.encode()), extension(21, b""))), 4096)
    for missing in (octets - len(stream), octets - len(stream) - HEADER * (octets // 4101)):
        stream = records(message(body(server_name(NAME.encode()), extension(21, bytes(max(0, missing))))), 4096)
    while len(stream) < octets:
        missing += 1
        stream = records(message(body(server_name(NAME.encode()), extension(21, bytes(missing)))), 4096)
    assert len(stream) == octets
    return stream


def test_attack_4_3_one_of_16_kib_is_read_and_one_octet_more_is_not() -> None:
    """In one segment, in two, and with something behind it."""
    just = padded(MAX_OCTETS)
    assert MAX_OCTETS == 16_384
    for pieces in ([just], [just[:100], just[100:]], [just + b"early data" * 1000], [just[:-1], just[-1:] + b"x"]):
        assert read(*pieces) == ClientHello(NAME, encrypted=False)
    more = padded(MAX_OCTETS + 1)
    for pieces in ([more], [more[:-1], more[-1:]], [more[:100], more[100:] + b"x"]):
        with pytest.raises(NotTls):
            read(*pieces)
    assert read(more[:-1]) is None


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
@example(b"\x16\x03\x01\0\5\1\0\0\1\3", [])
def test_attack_4_3_any_octets_are_no_tls_or_wanting_or_read_whatever_the_segments(
    octets: bytes, cuts: list[int]
) -> None:
    """Nothing but NotTls is raised, and what it comes to does not depend on how it is cut."""
    for stream in (octets, records(octets), records(b"\1" + octets), hello(octets), hello(extension(0, octets))):
        bounds = [0, *sorted(cuts), len(stream)]
        pieces = [stream[at:end] for at, end in pairwise(bounds)]
        outcomes: set[ClientHello | str | None] = set()
        for split in ([stream], pieces, [bytes([octet]) for octet in stream]):
            try:
                outcomes.add(read(*split))
            except NotTls:
                outcomes.add("no TLS")
        assert len(outcomes) == 1


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 600), st.integers(0, 255))
def test_attack_4_3_a_good_one_with_any_octet_changed_is_no_tls_or_wanting_or_read(
    which: str, at: int, octet: int
) -> None:
    stream = bytearray(GOOD[which][0])
    stream[at % len(stream)] = octet
    with suppress(NotTls):
        read(bytes(stream))


def test_attack_8_octet_by_octet_in_records_of_one_octet_costs_little() -> None:
    """Whoever sends 16 KiB so must not get seconds of the machine for it: each octet is looked at once."""
    stream = records(b"\1\xff\xff\xff" + bytes(MAX_OCTETS), 1)[:MAX_OCTETS]
    before = time.process_time()
    assert read(*(stream[at : at + 1] for at in range(MAX_OCTETS))) is None
    assert time.process_time() - before < 1.0


def test_the_alert_is_the_one_that_a_client_knows() -> None:
    """RFC 6066 §3: fatal, unrecognized_name."""
    context = ssl.create_default_context()
    heard = ssl.MemoryBIO()
    tls = context.wrap_bio(heard, ssl.MemoryBIO(), server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    heard.write(ALERT_UNRECOGNIZED_NAME)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        tls.do_handshake()
