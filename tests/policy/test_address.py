"""Reading targets: one spelling each, against every other spelling that ever meant something to somebody.

ATTACKS 1, 2.1, 2.2 and 4.5-4.7; what a target *is*, never whether it may be had.
"""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from netaddr import IPAddress

from proxyd.policy.address import (
    MAX_NAME,
    BadTarget,
    Destination,
    Endpoint,
    Resolution,
    bracketed,
    parse_absolute_form,
    parse_authority,
    parse_endpoint,
    parse_host,
    parse_port,
    parse_url,
)

LDH = string.ascii_lowercase + string.digits + "-_"
labels = st.from_regex(r"[a-z_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
ports = st.integers(1, 65535)
ipv4s = st.integers(0, 2**32 - 1).map(lambda value: IPAddress(value, 4))
ipv6s = st.integers(0, 2**128 - 1).map(lambda value: IPAddress(value, 6))
carriers = st.builds(
    lambda prefix, low: IPAddress(prefix << 32 | low, 6),
    st.sampled_from((0, 0xFFFF, 0xFFFF0000)),
    st.integers(0, 2**32 - 1),
)
hosts = st.one_of(names, st.one_of(ipv4s, ipv6s, carriers).map(lambda address: bracketed(str(address))))


def refused_everywhere(host: str) -> None:
    """A host is refused in each place where a host is read."""
    with pytest.raises(BadTarget):
        parse_authority(f"{host}:443")
    with pytest.raises(BadTarget):
        parse_absolute_form(f"http://{host}/")
    with pytest.raises(BadTarget):
        parse_url(f"https://{host}/")


@given(hosts, ports)
@example("[::]", 1)
@example("[::ffff:127.0.0.1]", 65535)
def test_what_is_printed_reads_back_as_the_same_destination(host: str, port: int) -> None:
    destination = parse_authority(f"{host}:{port}")
    assert parse_authority(str(destination)) == destination
    assert parse_absolute_form(f"http://{destination}/x?y") == (destination, "/x?y")
    assert parse_url(f"wss://{destination}#z") == destination


@given(st.text(alphabet=LDH + ".:[]%@/ \x00é\r\n\\#?+", max_size=40))
@example("[::1/64]:443")
@example("[::1\x00]:443")
@example("[::é]:443")
def test_nonsense_is_a_bad_target_and_never_another_error(text: str) -> None:
    for parse in (parse_authority, parse_url, lambda text: parse_absolute_form(f"http://{text}")[0]):
        try:
            destination = parse(text)
        except BadTarget:
            continue
        assert set(destination.host) <= set(LDH + ".:")
        assert 1 <= destination.port <= 65535
        assert (destination.address is None) == bool(
            set(destination.host.rpartition(".")[2]) - set(string.digits + ":")
        )


@given(st.text(alphabet=st.characters(exclude_characters=string.ascii_letters + string.digits + "-_.:[]@/?#")))
def test_attack_1_4_a_byte_outside_the_alphabet_spoils_any_name(spoiler: str) -> None:
    if spoiler:
        with pytest.raises(BadTarget):
            parse_host(f"a{spoiler}b.example")


@pytest.mark.parametrize(
    ("written", "host"),
    [
        pytest.param("evil.com.", "evil.com", id="1.1-final-dot"),
        pytest.param("EVIL.com", "evil.com", id="1.2-upper"),
        pytest.param("eViL.CoM.", "evil.com", id="1.2-mixed"),
        pytest.param("XN--BCHER-KVA.example", "xn--bcher-kva.example", id="1.7-a-label"),
        pytest.param("localhost.", "localhost", id="1.8-localhost-dot"),
        pytest.param("127.0.0.1.nip.io", "127.0.0.1.nip.io", id="1.8-nip.io"),
        pytest.param("_dmarc.a-b.example", "_dmarc.a-b.example", id="underscore"),
        pytest.param("a" * 63 + ".example", "a" * 63 + ".example", id="1.9-label-63"),
        pytest.param("1e100.0x7f.net", "1e100.0x7f.net", id="2.1-number-that-is-not-last"),
        pytest.param("x0", "x0", id="single-label"),
    ],
)
def test_attack_1_names_have_one_normal_form(written: str, host: str) -> None:
    assert parse_authority(f"{written}:443") == Destination(host, 443)
    assert parse_absolute_form(f"http://{written}/") == (Destination(host, 80), "/")


def test_attack_1_9_a_name_of_253_octets_is_the_longest() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(longest) == MAX_NAME == 253
    assert parse_host(longest) == (longest, None)
    assert parse_host(f"{longest}.") == (longest, None)
    with pytest.raises(BadTarget):
        parse_host(f"{longest}b")


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("evil.com..", id="1.1-two-dots"),
        pytest.param(".", id="1.1-root"),
        pytest.param("", id="1.5-empty"),
        pytest.param("[evil.com]", id="1.3-bracketed-name"),
        pytest.param("[[evil.com]]", id="1.3-twice-bracketed"),
        pytest.param("[[::1]]", id="1.3-twice-bracketed-address"),
        pytest.param("[127.0.0.1]", id="1.3-bracketed-ipv4"),
        pytest.param("[]", id="1.3-empty-brackets"),
        pytest.param("[::1", id="1.3-open-bracket"),
        pytest.param("::1]", id="1.3-closing-bracket"),
        pytest.param("[::1].", id="1.3-dot-behind-brackets"),
        pytest.param("[::1]x", id="1.3-name-behind-brackets"),
        pytest.param("x[::1]", id="1.3-name-before-brackets"),
        pytest.param("[::1\x00]", id="1.4-nul-in-brackets"),
        pytest.param("attacker.example\x00.google.com", id="1.4-nul"),
        pytest.param("evil.com%2eexample.org", id="1.5-escaped-dot"),
        pytest.param("%6c%6fcalhost", id="1.5-escaped-letters"),
        pytest.param("good.com\\evil", id="1.5-backslash"),
        pytest.param("good\t.com", id="1.5-tab"),
        pytest.param("good .com", id="1.5-space"),
        pytest.param("good.com;evil", id="1.5-semicolon"),
        pytest.param("good.com\r\n", id="1.5-line-end"),
        pytest.param("*.example.com", id="1.10-a-pattern-is-no-host"),
        pytest.param("good.com@evil", id="1.6-userinfo"),
        pytest.param("good.com:80@evil", id="1.6-userinfo-with-port"),
        pytest.param("ⓔvil.com", id="1.7-circled"),
        pytest.param("evil。com", id="1.7-ideographic-dot"),
        pytest.param("evil．com", id="1.7-fullwidth-dot"),  # noqa: RUF001 - the attack
        pytest.param("bücher.example", id="1.7-u-label"),
        pytest.param("\N{KELVIN SIGN}.example", id="1.7-kelvin-folds-to-k"),
        pytest.param("a" * 64 + ".example", id="1.9-label-64"),
        pytest.param("-a.example", id="1.9-leading-hyphen"),
        pytest.param("a-.example", id="1.9-trailing-hyphen"),
        pytest.param("a..b", id="1.9-empty-label"),
        pytest.param(".a", id="1.9-leading-dot"),
        pytest.param("2130706433", id="2.1-decimal"),
        pytest.param("0x7f000001", id="2.1-hex"),
        pytest.param("0X7F000001", id="2.1-upper-hex"),
        pytest.param("0x7f.1", id="2.1-hex-and-decimal"),
        pytest.param("127.0.0.0x1", id="2.1-last-label-hex"),
        pytest.param("0177.0.0.1", id="2.1-octal"),
        pytest.param("127.0.0.01", id="2.1-leading-zero"),
        pytest.param("127.1", id="2.1-two-parts"),
        pytest.param("127.0.1", id="2.1-three-parts"),
        pytest.param("1.2.3.4.5", id="2.1-five-parts"),
        pytest.param("256.0.0.1", id="2.1-too-large"),
        pytest.param("0", id="2.1-zero"),
        pytest.param("127.0.0.1.", id="2.1-final-dot"),
        pytest.param("example.0", id="2.1-name-with-numeric-end"),
        pytest.param("example.0x", id="2.1-name-with-hex-end"),
        pytest.param("١٢٧.0.0.1", id="2.1-arabic-digits"),
        pytest.param("[::1%25eth0]", id="2.2-escaped-zone"),
        pytest.param("[fe80::1%lo]", id="2.2-zone"),
        pytest.param("fe80::1%1", id="2.2-zone-without-brackets"),
        pytest.param("[::1%]", id="2.2-empty-zone"),
        pytest.param("::1", id="2.2-no-brackets"),
        pytest.param("[::1 ]", id="2.2-space-in-brackets"),
        pytest.param("[:::1]", id="2.2-three-colons"),
        pytest.param("[1::2::3]", id="2.2-two-gaps"),
        pytest.param("[12345::]", id="2.2-five-digits"),
        pytest.param("[::127.1]", id="2.2-short-ipv4-tail"),
        pytest.param("[::ffff:0177.0.0.1]", id="2.2-octal-tail"),
        pytest.param("[v1.fe80]", id="2.2-ipvfuture"),
    ],
)
def test_attack_1_and_2_other_spellings_are_no_target(host: str) -> None:
    refused_everywhere(host)


@pytest.mark.parametrize("host", ["[::1/64]", "[::1/128]", "[::/0]"])
def test_attack_4_6_a_network_in_brackets_is_no_target(host: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(f"{host}:443")
    with pytest.raises(BadTarget):
        parse_host(host)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2001:DB8::A]", "2001:db8::a"),
        ("[::ffff:7f00:1]", "::ffff:127.0.0.1"),
        ("[0:0:0:0:0:ffff:7f00:1]", "::ffff:127.0.0.1"),
        ("[::7f00:1]", "::127.0.0.1"),
    ],
)
def test_attack_2_3_literals_have_one_normal_form(written: str, host: str) -> None:
    assert parse_authority(f"{written}:8443") == Destination(host, 8443, IPAddress(host))


@given(ports)
def test_every_port_is_a_port(port: int) -> None:
    assert parse_port(str(port)) == port


@pytest.mark.parametrize(
    "port",
    [
        *("", "0", "00", "080", "65536", "65558", "99999", "100000"),
        *("-1", "+443", " 443", "443 ", "443\n", "4_4", "0x50", "1e2"),
        pytest.param("\uff10\uff10", id="fullwidth"),
        pytest.param("٤٤٣", id="arabic"),
        pytest.param("²", id="superscript"),
    ],
)
def test_attack_4_5_what_is_not_a_plain_port_is_refused(port: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(f"example.com:{port}")
    with pytest.raises(BadTarget):
        parse_absolute_form(f"http://example.com:{port}/")


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("example.com", id="4.5-no-port"),
        pytest.param("example.com:443:443", id="4.5-two-ports"),
        pytest.param("::1:443", id="4.5-no-brackets"),
        pytest.param("[::1]", id="4.5-address-without-port"),
        pytest.param(":443", id="4.5-no-host"),
        pytest.param("", id="4.6-nothing"),
        pytest.param("http://example.com:443", id="4.6-url"),
        pytest.param("/", id="4.6-slash"),
        pytest.param("*", id="4.6-asterisk"),
        pytest.param("*:443", id="4.6-any-host"),
        pytest.param("example.com:443/path", id="4.6-path"),
        pytest.param("example.com/:443", id="4.6-path-before-port"),
        pytest.param("user@example.com:443", id="1.6-userinfo"),
    ],
)
def test_attack_4_6_a_connect_target_is_host_and_port(target: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(target)


@pytest.mark.parametrize(
    "target",
    [
        "urn:x:y",
        "ftp://example.com/",
        "gopher://example.com/",
        "file:///etc/passwd",
        "https://example.com/",
        "ws://example.com/",
        "HTTP://example.com/",
        "http:example.com",
        "http:/example.com/",
        "http:///example.com",
        "http://",
        "http://?x",
        "//example.com/",
        "/",
        "*",
        "",
        " http://example.com/",
        "http:\\\\example.com\\",
    ],
)
def test_attack_4_7_a_request_target_is_http_in_absolute_form(target: str) -> None:
    with pytest.raises(BadTarget):
        parse_absolute_form(target)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("http://good.com@127.0.0.1/", id="user"),
        pytest.param("http://good.com:80@evil/", id="user-and-password"),
        pytest.param("http://@evil.com/", id="empty-user"),
        pytest.param("http://good.com\\@evil.com/", id="backslash"),
        pytest.param("http://good.com@[::1]/", id="before-brackets"),
    ],
)
def test_attack_1_6_userinfo_is_refused(target: str) -> None:
    with pytest.raises(BadTarget, match="userinfo"):
        parse_absolute_form(target)


@pytest.mark.parametrize("target", ["http://evil.com#.good.com/", "http://good.com/#x", "http://good.com/?#"])
def test_attack_1_5_a_request_target_has_no_fragment(target: str) -> None:
    with pytest.raises(BadTarget, match="fragment"):
        parse_absolute_form(target)


@pytest.mark.parametrize(
    ("target", "to", "origin_form"),
    [
        ("http://example.com", "example.com:80", ""),
        ("http://example.com/", "example.com:80", "/"),
        ("http://example.com:8080/a/../b?c=d", "example.com:8080", "/a/../b?c=d"),
        ("http://[::1]/", "[::1]:80", "/"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://example.com/http://a@b:1/", "example.com:80", "/http://a@b:1/"),
        ("http://example.com?a@b", "example.com:80", "?a@b"),
    ],
)
def test_the_authority_ends_at_the_first_slash_or_question_mark(target: str, to: str, origin_form: str) -> None:
    assert parse_absolute_form(target) == (parse_authority(to), origin_form)


@pytest.mark.parametrize(
    ("url", "to"),
    [
        ("http://example.com", "example.com:80"),
        ("https://example.com/x", "example.com:443"),
        ("ws://example.com?x", "example.com:80"),
        ("wss://example.com#x", "example.com:443"),
        ("https://[::1]", "[::1]:443"),
        ("https://example.com:80", "example.com:80"),
        ("example.com:22", "example.com:22"),
    ],
)
def test_an_operator_types_a_url_or_host_and_port(url: str, to: str) -> None:
    assert parse_url(url) == parse_authority(to)


@pytest.mark.parametrize(
    "url", ["ftp://example.com/", "HTTPS://example.com", "://example.com", "example.com", "https:x"]
)
def test_an_operator_types_no_other_url(url: str) -> None:
    with pytest.raises(BadTarget):
        parse_url(url)


@pytest.mark.parametrize(
    ("text", "default", "endpoint"),
    [
        ("127.0.0.1:3128", None, "127.0.0.1:3128"),
        ("[::1]:3128", None, "[::1]:3128"),
        ("9.9.9.9", 53, "9.9.9.9:53"),
        ("9.9.9.9:5353", 53, "9.9.9.9:5353"),
        ("[2620:fe::fe]", 53, "[2620:fe::fe]:53"),
        ("127.0.0.1:0", None, "127.0.0.1:0"),
    ],
)
def test_an_endpoint_is_an_address_and_a_port(text: str, default: int | None, endpoint: str) -> None:
    assert str(parse_endpoint(text, default)) == endpoint


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "localhost:3128", "::1:3128", "[::1]", "[::1]x", "127.0.0.1:", "127.0.0.1:00", "127.0.0.1:1:2", ":1"],
)
def test_an_endpoint_without_port_or_with_a_name_is_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_endpoint(text)


def test_port_0_is_for_listeners_which_have_no_default() -> None:
    with pytest.raises(BadTarget):
        parse_endpoint("9.9.9.9:0", 53)


def test_an_endpoint_is_a_value() -> None:
    assert parse_endpoint("[::1]:1") == Endpoint(IPAddress("::1"), 1)


def test_r12_an_answer_without_addresses_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one address"):
        Resolution(())
    assert Resolution((IPAddress("::1"),)).chain == ()


@given(st.text(alphabet=string.printable, min_size=3))
def test_a_refusal_never_quotes_what_was_sent(junk: str) -> None:
    """R7: a malformed head may hold a credential."""
    secret = f"s3cr3t%{junk}"
    for parse in (parse_authority, parse_absolute_form, parse_url, parse_host, parse_port, parse_endpoint):
        with pytest.raises(BadTarget) as refusal:
            parse(secret)
        assert "s3cr3t" not in str(refusal.value)
        assert refusal.value.__cause__ is None


# The memory of targets read


def test_a_target_that_was_read_is_not_read_again() -> None:
    """An agent asks for the same few hosts; reading is pure, so that remembering changes nothing but time."""
    parse_authority.cache_clear()
    first = parse_authority("remembered.example:443")
    assert parse_authority("remembered.example:443") is first
    assert parse_authority("REMEMBERED.example:443") == first
    assert (parse_authority.cache_info().hits, parse_authority.cache_info().misses) == (1, 2)


def test_attack_8_a_target_that_cannot_be_read_takes_no_place_in_memory_and_is_refused_again() -> None:
    parse_authority.cache_clear()
    for _ in range(2):
        for bad in ("example.com", "127.1:443", "a b:443", "example.com:0"):
            with pytest.raises(BadTarget):
                parse_authority(bad)
    assert parse_authority.cache_info().currsize == 0


def test_attack_8_the_memory_of_targets_is_bounded() -> None:
    for number in range(5000):
        parse_authority(f"h{number}.example:443")
    size, most = parse_authority.cache_info().currsize, parse_authority.cache_info().maxsize
    assert most is not None
    assert size <= most <= 4096
