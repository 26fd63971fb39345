"""The credential that a request shows: Basic and nothing else, read in one way, and shown to nobody (R2, R7)."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.http.credential import Shown, shown_credential
from proxyd.http.framing import Malformed
from tests.http.raw_heads import head, request_of


def shown_by(*values: str | bytes) -> Shown | None:
    """What these values of Proxy-Authorization show."""
    fields = [
        (b"proxy-authorization", value if isinstance(value, bytes) else value.encode("latin-1")) for value in values
    ]
    return shown_credential([(b"host", b"x"), *fields, (b"authorization", b"Basic b3JpZ2luOnM=")])


def basic(user: str, password: str) -> str:
    """What a client sends that knows them (RFC 7617 §2)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_basic_credential_is_a_user_name_and_a_password() -> None:
    assert shown_by("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") == Shown("Aladdin", "open sesame")  # RFC 7617 §2
    assert shown_by("Basic dGVzdDoxMjPCow==") == Shown("test", "123£")  # RFC 7617 §2.1, in UTF-8


def test_no_field_shows_nothing_and_the_origin_s_own_is_none_of_ours() -> None:
    assert shown_by() is None


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc"])
@pytest.mark.parametrize("space", [" ", "  ", "   "])
def test_the_scheme_has_no_case_and_spaces_behind_it_say_nothing(scheme: str, space: str) -> None:
    """RFC 9110 §11.1, §11.4."""
    assert shown_by(f"{scheme}{space}YTpi") == Shown("a", "b")


@pytest.mark.parametrize(
    ("user", "password"),
    [("", ""), ("a", ""), ("", "b"), ("a", "b:c:d"), ("a", ":"), ("ä", "ß€😀"), (" a ", " b ")],
)
def test_the_first_colon_ends_the_user_name_and_nothing_is_trimmed(user: str, password: str) -> None:
    assert shown_by(basic(user, password)) == Shown(user, password)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "Basic", "Basic ", "Basic =", "Basic YTpi=", "Basic YTp", "Basic YTpi YTpi", "Basic YT\tpi"),
        *("Basic YTpi,", "Basic Y-Tp_", "Basic \xff\xfe", "Basic YWI=", "Basic\tYTpi", "Basically YTpi", "BasicYTpi"),
        *("Bearer YTpi", "Digest username=a", "Negotiate YTpi", "YTpi", "Basic /zpi", "Basic wKA6Yg=="),
    ],
)
def test_what_is_no_basic_credential_shows_nothing(value: str) -> None:
    """R12: neither an error, by which one could tell what is asked for, nor ever somebody else's credential."""
    assert shown_by(value) is None


@pytest.mark.parametrize("control", [*map(chr, range(32)), "\x7f"])
@pytest.mark.parametrize(("user", "password"), [("a{}", "b"), ("{}a", "b"), ("a", "{}b"), ("a", "b{}")])
def test_rfc_7617_a_control_character_is_in_no_credential(control: str, user: str, password: str) -> None:
    """A password and the same with a NUL behind it would be one to PBKDF2."""
    assert shown_by(basic(user.format(control), password.format(control))) is None


@pytest.mark.parametrize("second", ["Basic YTpi", "Basic Yzpk", "", "Bearer x"])
def test_attack_7_2_two_credentials_are_refused_and_none_is_chosen(second: str) -> None:
    """Also the same one twice: a reader that took the other would disagree with us."""
    for values in (("Basic YTpi", second), (second, "Basic YTpi")):
        with pytest.raises(Malformed):
            shown_by(*values)


def test_names_come_in_lower_case_from_h11_however_they_were_spelt() -> None:
    request = request_of(head("pRoXy-AuThOrIzAtIoN: Basic YTpi"))
    assert shown_credential(request.headers) == Shown("a", "b")


def test_r7_a_password_is_not_shown_where_the_credential_is() -> None:
    """In a traceback, a debugger or a careless message."""
    assert "hunter2" not in repr(Shown("me", "hunter2"))


@given(st.lists(st.binary(max_size=40) | st.binary(max_size=30).map(lambda octets: b"Basic " + octets), max_size=2))
def test_any_value_is_read_or_refused_and_nothing_else_is_raised(values: list[bytes]) -> None:
    with suppress(Malformed):
        shown_by(*values)


TEXT: Final = st.characters(exclude_categories=["Cs"]).filter(lambda each: each >= " " and each != "\x7f")


@given(st.text(TEXT.filter(":".__ne__)), st.text(TEXT))
def test_any_credential_is_read_back_as_it_was_sent(user: str, password: str) -> None:
    assert shown_by(basic(user, password)) == Shown(user, password)
