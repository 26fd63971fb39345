"""What a server shows to TLS clients: what cannot be used is an error, and nobody is asked for anything (R12)."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from proxyd.net.certificate import server_context
from tests.net.joined import open_files
from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adversarial.tls import Certificates


def pem(certified: Certificates, name: str) -> str:
    """A file of the authority's folder."""
    return (certified.authority.parent / name).read_text()


def test_r1_tls_is_of_this_decade_and_is_not_negotiated_twice(certified: Certificates) -> None:
    """RFC 9325 §3.1.1, §3.5. What is agreed on is in test_tls."""
    before = open_files()
    context = server_context(pem(certified, "origin.pem"), pem(certified, "origin.key"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert open_files() == before


def test_r12_a_certificate_that_cannot_be_used_is_an_error_and_nobody_is_asked_anything(
    certified: Certificates, uncertified: Certificates, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    encrypt = [tool("openssl"), "pkcs8", "-topk8", "-v2", "aes-128-cbc", "-passout", "pass:secret"]
    encrypt += ["-in", str(certified.authority.parent / "origin.key"), "-out", str(locked)]
    subprocess.run(encrypt, check=True, capture_output=True)  # noqa: S603 - a fixed program
    before = open_files()
    chain = pem(certified, "origin.pem")
    for key in (locked.read_text(), pem(uncertified, "origin.key"), chain, "", "no key \u00e9"):
        with pytest.raises(ssl.SSLError):
            server_context(chain, key)
    with pytest.raises(ssl.SSLError):
        server_context("", pem(certified, "origin.key"))
    assert open_files() == before
