"""Files with secrets beside a policy: the hash of a client's password, and what proxyd shows to a parent proxy.

R7, R8, R12, ATTACKS 9. Who may read such a file is for the reader to say; here it is asked for as a secret.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from proxyd.policy.load import PolicyError, load
from proxyd.policy.password import parse_hash
from tests.policy.worlds import HASH, MINIMAL, SESAME, TODAY, files, loaded, problems

if TYPE_CHECKING:
    from proxyd.policy.client import Credential
    from proxyd.policy.load import ReadFile

KNOWING = MINIMAL + '[client.credential]\nuser = "agent"\nfile = "hash"\n'
BEHIND = MINIMAL + '[parent]\naddress = "192.0.2.7:3128"\ncredential_file = "parent"\n'
SECOND = '[[client]]\nname = "second"\ncredential = {user = "second", file = "hash"}\n'
AT_HASH = "main.toml: client[0].credential.file"
AT_PARENT = "main.toml: parent.credential_file"


def noting(read: ReadFile, asked: list[tuple[str, str | None, bool]]) -> ReadFile:
    """The reader, what it is asked for written down."""

    def noted(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
        asked.append((name, beside, secret))
        return read(name, beside, secret=secret)

    return noted


def credential(main: str, content: str | bytes) -> Credential:
    """The credential of the first client, its hash being in a file."""
    found = loaded(main, hash=content).client[0].credential
    assert found is not None
    return found


# The hash of a client's password


@pytest.mark.parametrize("content", [HASH, HASH + "\n", HASH.encode() + b"\r\n"])
def test_r8_a_hash_may_be_in_a_file_of_its_own(content: str | bytes) -> None:
    found = credential(KNOWING, content)
    assert (found.user, found.password) == ("agent", parse_hash(HASH))
    assert found.password is not None
    assert found.password.fits(SESAME)


def test_a_hash_from_a_file_is_as_good_as_one_in_the_policy() -> None:
    """Whoever has proven the one has proven the other: a reload that moves it turns nobody away."""
    assert credential(KNOWING, HASH) == credential(KNOWING.replace('file = "hash"', f'password = "{HASH}"'), "")


def test_attack_9_files_with_secrets_are_asked_for_as_such_beside_the_policy_and_no_others_are() -> None:
    asked: list[tuple[str, str | None, bool]] = []
    main = 'include = ["rows.toml"]\n' + BEHIND.replace("[parent]", SECOND + "[parent]")
    load("main.toml", noting(files(main=main, rows="", hash=HASH, parent="a:b"), asked), TODAY)
    assert asked == [
        ("main.toml", None, False),
        ("rows.toml", "/main.toml", False),
        ("hash", "/main.toml", True),
        ("parent", "/main.toml", True),
    ]


def test_r8_the_digest_covers_the_hash() -> None:
    digests = [
        loaded(KNOWING, hash=HASH).digest,
        loaded(KNOWING, hash=HASH + "\n").digest,
        loaded(KNOWING, hash=HASH.replace("AAEC", "BBEC")).digest,
        loaded(KNOWING + SECOND.replace('"hash"', '"hash2"'), hash=HASH, hash2=HASH).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert loaded(KNOWING, hash=HASH).digest == digests[0]


def test_one_file_may_serve_two_clients() -> None:
    first, second = loaded(KNOWING + SECOND, hash=HASH).client
    assert first.credential is not None
    assert second.credential is not None
    assert first.credential.password == second.credential.password == parse_hash(HASH)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is not spelt $scrypt$ln=…,r=…,p=…$SALT$HASH; `proxyd password` makes one"),
        (SESAME, "it is not spelt $scrypt$ln=…,r=…,p=…$SALT$HASH; `proxyd password` makes one"),
        (HASH + "\n" + HASH, "it is not spelt $scrypt$ln=…,r=…,p=…$SALT$HASH; `proxyd password` makes one"),
        (b"\xff\xfe", "is not UTF-8 text; save it as UTF-8 without a byte order mark"),
    ],
)
def test_r12_a_file_without_a_hash_is_an_error_and_is_not_repeated(content: str | bytes, said: str) -> None:
    """It may have the password itself."""
    assert problems(KNOWING, hash=content) == [f"{AT_HASH}: {said}"]


def test_r12_a_hash_that_costs_too_much_is_an_error_in_a_file_too() -> None:
    (problem,) = problems(KNOWING, hash=HASH.replace("ln=10", "ln=20"))
    assert problem.startswith(f"{AT_HASH}: ln must be 10 to 16")


def test_r12_a_file_that_is_not_there_is_an_error_and_not_a_client_without_a_password() -> None:
    assert problems(KNOWING) == [f"{AT_HASH}: cannot be read: No such file or directory"]
    assert problems(BEHIND) == [f"{AT_PARENT}: cannot be read: No such file or directory"]


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (OSError(0, "others may read or write it; chmod 0640"), "others may read or write it; chmod 0640"),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/path"), "Permission denied"),
        (ValueError("embedded null byte"), "bad file name"),
        (OSError(), "bad file name"),
    ],
)
@pytest.mark.parametrize(("main", "at"), [(KNOWING, AT_HASH), (BEHIND, AT_PARENT)])
def test_r12_a_secret_that_cannot_be_read_or_that_others_can_is_an_error(
    failure: Exception, why: str, main: str, at: str
) -> None:
    def read(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:
        if secret:
            raise failure
        return files(main=main)(name, beside)

    with pytest.raises(PolicyError) as error:
        load("main.toml", read, TODAY)
    assert error.value.problems == [f"{at}: cannot be read: {why}"]


def test_all_problems_with_secrets_are_said_at_once_each_at_its_client() -> None:
    said = problems(KNOWING + SECOND.replace('"hash"', '"gone"'), hash=SESAME)
    assert [each.split(": ")[1] for each in said] == ["client[0].credential.file", "client[1].credential.file"]


def test_r12_where_the_hash_is_said_twice_the_file_is_not_read() -> None:
    """Which of them counts is not for us to guess."""
    asked: list[tuple[str, str | None, bool]] = []
    main = KNOWING + f'password = "{HASH}"\n'
    with pytest.raises(PolicyError, match="write password or file"):
        load("main.toml", noting(files(main=main), asked), TODAY)
    assert not any(secret for _, _, secret in asked)


# What proxyd shows to a parent


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("me:open sesame", "me:open sesame"),
        ("me:open sesame\n", "me:open sesame"),
        ("me:open:sesame\r\n", "me:open:sesame"),
        ("jörg:pässwört", "jörg:pässwört"),
    ],
)
def test_a_parents_credential_is_user_and_password_on_a_line(content: str, shown: str) -> None:
    parent = loaded(BEHIND, parent=content).parent
    assert parent is not None
    assert parent.credential == shown


@pytest.mark.parametrize("content", ["", "\n", "SECRET", "me:SECRET\nhim:SECRET", "me:SEC\0RET", "me:SECRET\r\nX: y"])
def test_r12_attack_9_what_is_no_credential_for_a_parent_is_an_error_and_is_not_repeated(content: str) -> None:
    assert problems(BEHIND, parent=content) == [f"{AT_PARENT}: is no credential; write user:password on one line"]


def test_r12_a_parents_credential_that_is_no_text_is_an_error() -> None:
    assert problems(BEHIND, parent=b"me:\xff") == [
        f"{AT_PARENT}: is not UTF-8 text; save it as UTF-8 without a byte order mark"
    ]


def test_a_parent_may_ask_for_no_credential() -> None:
    parent = loaded(BEHIND.replace('credential_file = "parent"\n', "")).parent
    assert parent is not None
    assert parent.credential == ""


def test_r7_no_secret_is_in_what_a_policy_shows_of_itself() -> None:
    main = BEHIND.replace("[parent]", SECOND + "[parent]")
    shown = repr(loaded(main, hash=HASH, parent="me:open sesame"))
    assert SESAME not in shown
    assert HASH.split("$")[-1] not in shown
