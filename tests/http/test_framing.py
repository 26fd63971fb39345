"""Framing: whatever two parsers could read in two ways is refused before h11 sees it (ATTACKS 5).

Heads are read by all three that may refuse them; chunked bodies are fed whole, byte by byte and split everywhere.
"""

from __future__ import annotations

import re
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import h11
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from proxyd.http.framing import (
    MAX_CHUNK_EXTENSIONS,
    MAX_CHUNK_LINE,
    MAX_FIELDS,
    MAX_HEAD,
    MAX_TRAILERS,
    ChunkedScan,
    Malformed,
    check_head,
    check_lines,
)
from proxyd.http.request import Asked
from proxyd.policy.verdict import Reason
from tests.http.raw_heads import head, request_of, said, understand

if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNKED: Final = head("Transfer-Encoding: chunked")
PLENTY: Final = 0.5
"""Seconds of CPU in which any head is read a hundred times, unless its cost grows with the square of its length."""


def refusal_of_head(raw: bytes) -> Reason | None:
    """What check_head alone says."""
    try:
        check_head(raw)
    except Malformed as malformed:
        return malformed.reason
    return None


# Heads


@pytest.mark.parametrize(
    "raw",
    [
        head(),
        head("Content-Length: 0"),
        head("Content-Length: 5"),
        head("content-length:\t 5 \t"),
        head("CONTENT-LENGTH:5"),
        head("Content-Length: 007"),
        head(f"Content-Length: {'9' * 18}"),
        head("Transfer-Encoding: chunked"),
        head("X: caf\xe9 \x80\xff\ttab"),
        head("X:"),
        head("X-Content-Length: 5", "X-Transfer-Encoding: gzip", "Content-Lengths: 5,5"),
        head("X: Content-Length: 5", "Y: a, Transfer-Encoding: chunked", "Content-Length: 5"),
    ],
)
def test_a_head_with_one_reading_passes(raw: bytes) -> None:
    check_head(raw)
    assert isinstance(understand(raw), Asked)


def test_the_head_of_a_response_is_held_to_the_same_rules() -> None:
    check_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    for bad in (b"Content-Length: 5\r\nContent-Length: 5", b"X: a\r\n b", b"X: a\nY: b", b"X: \x00"):
        assert refusal_of_head(b"HTTP/1.1 200 OK\r\n" + bad + b"\r\n\r\n") is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "gzip"])
@pytest.mark.parametrize("reverse", [False, True])
def test_attack_5_content_length_beside_transfer_encoding(coding: str, reverse: bool) -> None:  # noqa: FBT001
    fields = [f"Transfer-Encoding: {coding}", "X-Between: 1", "Content-Length: 5"]
    raw = head(*(reversed(fields) if reverse else fields))
    assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("second", ["5", "6", "05", ""])
def test_attack_5_two_content_lengths_equal_or_not(second: str) -> None:
    for other in ("Content-Length", "content-length", "CONTENT-length"):
        raw = head("Content-Length: 5", "X: y", f"{other}: {second}")
        assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "length",
    [
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5,6",
        "5 5",
        "5_0",
        "5.0",
        "5e0",
        "",
        " ",
        "five",
        '"5"',
        "²",
        "9" * 19,
        "5;",
        "0" * 18 + "5",
    ],
)
def test_attack_5_content_length_is_plain_digits(length: str) -> None:
    raw = head(f"Content-Length: {length}")
    assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("coding", ["Chunked", "CHUNKED", " \tchunked\t "])
def test_attack_5_chunked_is_chunked_in_any_case(coding: str) -> None:
    raw = head(f"Transfer-Encoding: {coding}")
    assert isinstance(understand(raw), Asked)
    assert body_end(b"5\r\nhello\r\n0\r\n\r\nrest", raw) == 15


@pytest.mark.parametrize(
    "coding",
    [
        "chunked,",
        ",chunked",
        "chunked, gzip",
        "gzip, chunked",
        "gzip",
        "identity",
        "",
        "chunked chunked",
        "xchunked",
        "chunked;q=1",
        '"chunked"',
        "chun ked",
        "chunked, chunked",
        "chunked\xa0",
        "\x85chunked",
    ],
)
def test_attack_5_a_coding_that_is_not_exactly_chunked(coding: str) -> None:
    raw = head(f"Transfer-Encoding: {coding}")
    assert refusal_of_head(raw) is understand(raw) is Reason.CODING_UNSUPPORTED


@pytest.mark.parametrize("control", ["\x0b", "\x0c", "\x00", "\x1f", "\x7f"])
def test_attack_5_a_control_before_chunked(control: str) -> None:
    for value in (f"{control}chunked", f"chunked{control}"):
        raw = head(f"Transfer-Encoding: {value}")
        assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


def test_attack_5_two_transfer_encodings() -> None:
    for second in ("chunked", "identity", ""):
        raw = head("Transfer-Encoding: chunked", f"transfer-encoding: {second}")
        assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("name", ["Transfer-Encoding", "Content-Length", "Host", "X"])
@pytest.mark.parametrize("space", [" ", "\t"])
def test_attack_5_space_before_the_colon(name: str, space: str) -> None:
    assert understand(head(f"{name}{space}: chunked")) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("mark", "!#$%&'*+.^_`|~")
@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_attack_5_a_name_that_is_a_framing_field_s_but_for_its_hyphen(name: str, mark: str) -> None:
    """Where a punctuation mark is read as a hyphen, as by gateways to CGI, it frames the message: h11 reads none."""
    lookalike = name.replace("-", mark)
    for spelling in (lookalike, lookalike.lower(), lookalike.upper()):
        for others in ((), ("Content-Length: 5",), ("Transfer-Encoding: chunked",)):
            for fields in ((f"{spelling}: 5", *others), (*others, f"{spelling}: chunked"), (f"{spelling}:", *others)):
                raw = head(*fields)
                assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST
                answer = head(*fields, line="HTTP/1.1 200 OK", host=None)
                assert refusal_of_head(answer) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "field",
    [
        *("ContentLength: 5", "Content__Length: 5", "X_Content_Length: 5", "Content_Length_: 5", "Content0Length: 5"),
        *("TransferEncoding: a", "Transfer.-Encoding: a", "X-Transfer_Encoding: a", "Content_Type: a"),
        *("X: Content_Length: 5", "X: Transfer_Encoding"),
    ],
)
def test_a_name_that_is_a_framing_field_s_under_no_reading_passes(field: str) -> None:
    """The neighbour of the one before."""
    assert refusal_of_head(head(field)) is None
    assert isinstance(understand(head(field, "Content-Length: 5")), Asked)


@pytest.mark.parametrize("space", [" ", "\t", "  "])
def test_attack_5_a_folded_line(space: str) -> None:
    for fields in (["X: a", f"{space}b"], [f"{space}X: a"], ["Transfer-Encoding:", f"{space}chunked"], [space]):
        raw = head(*fields)
        assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST
    raw = head(f"{space}X: a", host=None)
    assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("end", ["\n", "\r", "\n\r", "\r\r\n", "\n\n"])
def test_attack_5_a_bare_line_feed_or_carriage_return(end: str) -> None:
    hidden = end + "Content-Length: 5"
    for raw in (
        head("X: a" + hidden),
        head(host="example.com" + hidden),
        head(line="POST http://example.com/ HTTP/1.1" + end + "X: y"),
        head("X: a")[:-2] + end.encode(),
        head().replace(b"\r\n", end.encode()),
    ):
        assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("octet", [*range(9), 11, 12, *range(14, 32), 127])
def test_attack_5_a_control_anywhere_in_a_head(octet: int) -> None:
    control = chr(octet)
    for raw in (
        head(f"X: a{control}b"),
        head(f"X: {control}"),
        head(f"X{control}: a"),
        head(line=f"GET http://example.com/{control} HTTP/1.1"),
        control.encode() + head(),
    ):
        assert refusal_of_head(raw) is understand(raw) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("version", ["1.0", "0.9"])
@pytest.mark.parametrize("host", ["example.com", None])
def test_attack_5_a_coding_before_http_1_1(version: str, host: str | None) -> None:
    answer = understand(head("Transfer-Encoding: chunked", line=f"POST http://example.com/ HTTP/{version}", host=host))
    assert answer is (Reason.MALFORMED_REQUEST if version == "1.0" else Reason.VERSION_UNSUPPORTED)


@pytest.mark.parametrize("line", ["GET http://example.com/", "GET http://example.com/ ", "GET  HTTP/1.1"])
def test_attack_5_http_0_9_has_no_version(line: str) -> None:
    assert understand(head(line=line)) is Reason.MALFORMED_REQUEST
    assert understand(line.encode() + b"\r\n\r\n") is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "X"])
def test_attack_8_a_head_full_of_spaces_costs_no_more_than_another(name: str) -> None:
    raw = head(f"{name}: 1{' ' * (MAX_HEAD - 200)}1")
    before = time.process_time()
    refusal_of_head(raw)
    assert time.process_time() - before < PLENTY


# Heads that are not complete yet


def refused_at(raw: bytes, *cuts: int) -> int | None:
    """How many octets had arrived when check_lines refused; they arrive in pieces that end at `cuts`."""
    seen = 0
    for end in [*cuts, len(raw)]:
        try:
            check_lines(bytearray(raw[:end]), seen)
        except Malformed:
            return end
        seen = end
    return None


def test_a_good_head_passes_at_every_point_of_its_arrival() -> None:
    raw = head("X: \x80\ty", "Content-Length: 5")
    assert refused_at(raw, *range(len(raw))) is None
    for at in range(len(raw)):
        assert refused_at(raw, at) is None


@pytest.mark.parametrize(
    ("start", "spoiler"),
    [
        ("X: a", "\nY"),
        ("X: a", "\rY"),
        ("X: a", "\r\r"),
        ("X: a\r\n", " "),
        ("X: a\r\n", "\t"),
        ("X: ", "\x00"),
        ("", "\n"),
    ],
)
def test_a_bad_line_is_refused_before_its_head_is_complete_wherever_it_was_cut(start: str, spoiler: str) -> None:
    """A client that ends its lines with LF alone never sends the end of a head: it would be waited for."""
    good, bad = head(start)[:-4], spoiler.encode()
    assert refused_at(good) is None
    for at in range(len(good) + len(bad)):
        assert refused_at(good + bad, at) == len(good + bad) or at > len(good)
    assert refused_at(good + bad, *range(len(good + bad))) in range(len(good) + 1, len(good + bad) + 1)


@given(st.text("\r\n \ta\x00\x80", max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_lines_are_judged_alike_in_one_piece_and_in_many(text: str, cuts: list[int]) -> None:
    raw = text.encode("latin-1")
    assert (refused_at(raw, *sorted(min(cut, len(raw)) for cut in cuts)) is None) == (refused_at(raw) is None)


# Chunked bodies: alone


def fed(pieces: Iterable[bytes]) -> Reason | None:
    """What one scan says of these pieces, in order."""
    scan = ChunkedScan()
    try:
        for piece in pieces:
            scan.feed(piece)
    except Malformed as malformed:
        return malformed.reason
    return None


def fed_every_way(raw: bytes) -> set[Reason | None]:
    """What a scan says of these bytes whole, byte by byte, and split in two at every place."""
    bytewise = [raw[at : at + 1] for at in range(len(raw))]
    return {fed([raw]), fed(bytewise)} | {fed([raw[:at], raw[at:]]) for at in range(len(raw))}


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"a\r\n\r\n0\r\n\r\n0\r\n\r\n0\r\n\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b'1;a=b;c="d \x80"\t\r\nx\r\n0;z\r\n\r\n',
        b"000000000000002\r\n\n\n\r\n000\r\n\r\n",
        b"3\r\n\x00\r\n\r\n0\r\nChecksum: 1\r\nX:\r\nY: \xe9\ta\r\n\r\n",
    ],
)
def test_a_chunked_body_passes_however_it_arrives_and_what_follows_is_ignored(body: bytes) -> None:
    assert body_end(body) == len(body)
    for follows in (b"", b"\r\n", b"\x00\n\r", b"GET http://example.com/ HTTP/1.1\r\n\n"):
        assert fed_every_way(body + follows) == {None}


@pytest.mark.parametrize(
    "body", [b"", b"5", b"5\r\nhel", b"5\r\nhello\r", b"0\r\n", b"0\r\nX: y\r", b"0\r\nX: y\r\n\r"]
)
def test_a_body_that_is_not_over_yet_is_not_refused(body: bytes) -> None:
    assert fed_every_way(body) == {None}
    assert fed([body, b"\x00\n" * 9]) is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    "line",
    [
        b"-1",
        b"+1",
        b"0x1",
        b" 1",
        b"1 ",
        b"1\t",
        b"\t1",
        b"1_0",
        b"g",
        b"",
        b";x",
        b" ",
        b"1,1",
        b"1\x0b",
        b"\xb9",
        b"ffffffffffffffff",
        b"10000000000000001",
        b"0000000000000001",
        b"1 ;x",
        b"1\x00",
        b"-0",
        b"1\xa0",
    ],
)
def test_attack_5_a_chunk_size_is_up_to_fifteen_hexadecimal_digits(line: bytes) -> None:
    assert fed_every_way(line + b"\r\nx\r\n0\r\n\r\n") == {Reason.MALFORMED_REQUEST}
    assert fed_every_way(b"1\r\nx\r\n" + line + b"\r\n") == {Reason.MALFORMED_REQUEST}


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\x00\r\n", b";\n", b";a\rb\r\n", b";a\x7f\r\n"])
def test_attack_5_a_chunk_line_ends_in_crlf_and_holds_no_control(end: bytes) -> None:
    assert fed_every_way(b"1" + end + b"x\r\n0\r\n\r\n") == {Reason.MALFORMED_REQUEST}
    assert fed_every_way(b"0" + end + b"\r\n") == {Reason.MALFORMED_REQUEST}


BAD_TRAILERS: Final = [
    pytest.param(b"\n", id="bare LF ends the message"),
    pytest.param(b"\r\r\n", id="bare CR before the end"),
    pytest.param(b"X: y\n\r\n", id="bare LF"),
    pytest.param(b"X: y\nY: z\r\n\r\n", id="bare LF between fields"),
    pytest.param(b"X: y\n\nGET http://example.com/ HTTP/1.1\r\n\r\n", id="two bare LFs hide a request"),
    pytest.param(b"X: y\rY: z\r\n\r\n", id="bare CR"),
    pytest.param(b"X: y\r\n Y: z\r\n\r\n", id="fold"),
    pytest.param(b"X: y\r\n\tY: z\r\n\r\n", id="fold by HTAB"),
    pytest.param(b" X: y\r\n\r\n", id="fold of the last chunk"),
    pytest.param(b"X: \x00\r\n\r\n", id="NUL"),
    pytest.param(b"X: \x7f\r\n\r\n", id="DEL"),
    pytest.param(b"X: y\r\r\n\r\n", id="bare CR at the end of the last field"),
    pytest.param(b"X: \x00\r\r\n\r\n", id="NUL, then bare CR at the end"),
    pytest.param(b"X: y\n\nGET http://example.com/ HTTP/1.1\r\r\n\r\n", id="bare LFs, then bare CR at the end"),
    pytest.param(b"X: y\r\n Y: z\r\r\n\r\n", id="fold, then bare CR at the end"),
    pytest.param(b"\r\r\n\r\n", id="bare CR alone"),
]


@pytest.mark.parametrize("section", BAD_TRAILERS)
def test_attack_5_trailers_are_held_to_the_rules_of_a_head(section: bytes) -> None:
    assert fed_every_way(b"1\r\nx\r\n0\r\n" + section) == {Reason.MALFORMED_REQUEST}


def test_attack_5_a_carriage_return_that_comes_last_excuses_nothing_before_it() -> None:
    for tail in (b"\nGET http://example.com/ HTTP/1.1\r", b"X: \x00\r", b"X: y\rz\r", b"X: y\r\n z\r"):
        assert fed_every_way(b"0\r\n" + tail + b"x") == {Reason.MALFORMED_REQUEST}
        assert fed([b"0\r\n" + tail]) is Reason.MALFORMED_REQUEST


def test_attack_5_a_chunk_line_has_a_limit_however_it_arrives() -> None:
    longest = b"1;".ljust(MAX_CHUNK_LINE - 2, b"x") + b"\r\n"
    assert fed_every_way(longest) == {None}
    assert fed_every_way(longest.replace(b"x", b"xx", 1)) == {Reason.MALFORMED_REQUEST}


def test_attack_5_a_line_that_never_ends_is_refused_at_the_limit() -> None:
    scan = ChunkedScan()
    scan.feed(b"1;".ljust(MAX_CHUNK_LINE - 1, b"x"))
    with pytest.raises(Malformed):
        scan.feed(b"x")


def test_attack_5_a_flood_of_chunk_extensions() -> None:
    chunk = b"1;" + b"x" * 511 + b"\r\n.\r\n"
    flood = chunk * (MAX_CHUNK_EXTENSIONS // 512)
    assert fed([flood, b"1\r\n.\r\n" * 9, b"0\r\n\r\n"]) is None
    assert fed([flood, b"1;\r\n.\r\n"]) is Reason.MALFORMED_REQUEST
    assert fed([flood, b"0;\r\n"]) is Reason.MALFORMED_REQUEST


def test_attack_5_trailers_have_a_limit_however_they_arrive() -> None:
    last = b"0\r\n"
    most = last + b"X: ".ljust(MAX_TRAILERS - 4, b"x") + b"\r\n\r\n"
    for at in range(0, len(most), 97):
        assert fed([most[:at], most[at:]]) is None
    more = last + b"X: ".ljust(MAX_TRAILERS + 1, b"x") + b"\r\n\r\n"
    twice = last + b"X: ".ljust(MAX_TRAILERS * 2 - 8, b"x") + b"\r\n\r\n"
    for body in (more, twice):
        splits = [[body], *([body[:at], body[at:]] for at in range(0, len(body), 97))]
        assert {fed(pieces) for pieces in splits} == {Reason.HEAD_TOO_LARGE}
    assert fed([last, b"x" * MAX_TRAILERS]) is None
    assert fed([last, b"x" * MAX_TRAILERS, b"x"]) is Reason.HEAD_TOO_LARGE


# Chunked bodies: beside h11, which reads the same bytes after the scan

PANIC: Final = b"\x00\n" * 2_100
"""More octets than a chunk of three digits: refused wherever a body is not over."""


def body_end(raw: bytes, request: bytes = CHUNKED) -> int | Reason | None:
    """Where h11 sees the body end, None if it waits for more, or that it refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(request + raw)
    try:
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.EndOfMessage):
                return len(raw) - len(connection.trailing_data[0])
    except h11.RemoteProtocolError:
        return Reason.MALFORMED_REQUEST
    return None


def scan_end(raw: bytes) -> int | Reason | None:
    """Where a scan that is fed everything at once sees the body end, None if it waits for more, or its refusal."""
    if (refused := fed([raw])) is not None:
        return refused
    return next((at for at in range(1, len(raw) + 1) if fed([raw[:at], PANIC]) is None), None)


sizes = st.builds(lambda zeros, upper: (zeros, upper), st.integers(0, 2), st.booleans())
extensions = st.from_regex(rb"(;[\t -~\x80-\xff]{0,9})?", fullmatch=True)
fields = st.from_regex(rb"[A-Za-z-]{1,9}:[ \t]*[!-~\x80-\xff]{0,9}\r\n", fullmatch=True)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A chunked body: no chunk is 256 octets or longer."""
    raw = b""
    for data in [*draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)), b""]:
        zeros, upper = draw(sizes) if len(data) < 16 else (0, False)
        size = f"{len(data):x}"
        raw += b"0" * zeros + (size.upper() if upper else size).encode() + draw(extensions) + b"\r\n"
        raw += data + b"\r\n" if data else b"".join(draw(st.lists(fields, max_size=3))) + b"\r\n"
    return raw


scraps = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\r\r\n\r\n",
        b"\r\n\r\n",
        b"0",
        b"1",
        b"a",
        b"0\r\n",
        b"0\r\n\r\n",
        b"0\n\n",
        b";",
        b" ",
        b"\t",
        b"\x00",
        b"-",
        b"X: y",
        b"X: y\n",
        b"\x0b",
        b",",
        b"0x",
    ]
)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A chunked body with up to four cuts, scraps put in, and pieces said twice."""
    raw = draw(bodies())
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        middle = draw(st.one_of(st.just(b""), scraps, st.just(raw[start:end] * 2)))
        raw = raw[:start] + middle + raw[min(end, start + draw(st.integers(0, 3))) :]
    return raw


@given(bodies(), st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=6))
def test_any_body_in_any_chunks_passes_in_any_pieces_and_what_follows_is_ignored(
    body: bytes, follows: bytes, cuts: list[int]
) -> None:
    raw = body + follows + PANIC
    edges = [0, *sorted(cuts), len(raw)]
    assert fed([raw[start:end] for start, end in pairwise(edges)]) is None
    assert body_end(raw) == len(body)


@given(mutants())
@settings(max_examples=300)
@example(b"1\r\nx\r\n0\r\n\r\n")
@example(b"1\r\nx..0\r\n\r\n")
@example(b"0\r\nX: y\n\nY: z\r\r\n\r\n")
@example(b"0\r\n\nGET http://example.com/ HTTP/1.1\r")
def test_the_scan_and_h11_never_see_different_ends(raw: bytes) -> None:
    assume(not re.search(rb"[0-9A-Fa-f]{4}", raw))
    ours, theirs = scan_end(raw), body_end(raw)
    assert Reason.MALFORMED_REQUEST in (ours, theirs) or ours == theirs


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\n\r", b"..", b"\r\r\n", b"\r\n\r\n", b"x\r\n"])
def test_attack_5_chunk_data_without_its_crlf_is_refused_by_one_of_the_two(end: bytes) -> None:
    """h11 checks these two octets since 0.16 (CVE-2025-43859); the scan only steps over them."""
    body = b"5\r\nhello" + end + b"0\r\n\r\n"
    assert Reason.MALFORMED_REQUEST in (fed([body]), body_end(body))


# What a refusal may say


@given(st.from_regex(r"s3cr3t[A-Za-z0-9]{8}", fullmatch=True))
@settings(max_examples=20)
def test_attack_9_no_refusal_quotes_what_it_refuses(secret: str) -> None:
    for raw in (
        head(f"Content-Length: {secret}"),
        head(f"Transfer-Encoding: {secret}"),
        head(f"Authorization: Bearer {secret}\n"),
        head(f"Cookie: a={secret}", "\tb"),
        head("Content-Length: 1", "Transfer-Encoding: chunked", f"Cookie: {secret}"),
        head(
            "Content-Length: 1",
            "Content-Length: 1",
            line=f"GET http://u:{secret}@example.com/{secret}?{secret} HTTP/1.1",
        ),
    ):
        with pytest.raises(Malformed) as caught:
            check_head(raw)
        assert secret not in said(caught.value)
    for body in (secret, f"1;{secret}\n", f"1;{secret * 100}", f"0\r\nX: {secret}\n", f"0\r\n{secret * 700}"):
        with pytest.raises(Malformed) as caught:
            ChunkedScan().feed(body.encode() + b"\r\n")
        assert secret not in said(caught.value)


def test_a_refusal_without_a_reason_of_its_own_is_a_malformed_request() -> None:
    assert Malformed("why").reason is Reason.MALFORMED_REQUEST
    assert str(Malformed("why", Reason.LOOP_DETECTED)) == "why"
    assert Malformed("why", Reason.LOOP_DETECTED).reason is Reason.LOOP_DETECTED


def test_attack_8_a_head_has_no_more_than_256_fields() -> None:
    assert MAX_FIELDS == 256
    host = 1
    assert isinstance(understand(head(*["A:"] * (MAX_FIELDS - host))), Asked)
    for many in (MAX_FIELDS - host + 1, 5000):
        raw = head(*["A:"] * many)
        assert len(raw) <= MAX_HEAD
        assert refusal_of_head(raw) is understand(raw) is Reason.HEAD_TOO_LARGE


def test_attack_8_the_head_of_a_response_has_no_more_fields_either() -> None:
    line = "HTTP/1.1 200 OK"
    assert refusal_of_head(head(*["A:"] * MAX_FIELDS, line=line, host=None)) is None
    assert refusal_of_head(head(*["A:"] * (MAX_FIELDS + 1), line=line, host=None)) is Reason.HEAD_TOO_LARGE


def test_attack_5_what_is_ambiguous_is_called_so_however_many_fields_there_are() -> None:
    assert refusal_of_head(head(*["A:"] * (MAX_FIELDS + 1), "B: a\nC: d")) is Reason.MALFORMED_REQUEST


def test_a_long_head_is_read_whole() -> None:
    """Node sends heads of up to 16 KiB, and h11's own default would stop there."""
    raw = head("Cookie: " + "x" * (MAX_HEAD - 100))
    assert len(raw) > 16 * 1024
    assert refusal_of_head(raw) is None
    assert len(request_of(raw).headers) == 2
