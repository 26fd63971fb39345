"""What a server shows to TLS clients, and what it accepts of them. Nothing here speaks to anybody."""

from __future__ import annotations

import os
import ssl


def server_context(certificate: str, private_key: str) -> ssl.SSLContext:
    """HTTP/1.1 over TLS 1.2 or later (RFC 9325), from PEM texts. Raises OSError, of which ssl.SSLError is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    with os.fdopen(
        os.memfd_create("proxyd-certificate", os.MFD_CLOEXEC), "w", encoding="ascii", errors="replace"
    ) as file:
        file.write(f"{certificate}\n{private_key}\n")  # OpenSSL wants a path, and the key must not be in a file
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        context.load_cert_chain(path, password=lambda: b"")  # never ask for one on the terminal
    return context
