"""TLS to a host whose certificate is known by its hash, not by a name or an issuer."""

from __future__ import annotations

import hashlib
import hmac
import ssl


def pinned_context() -> ssl.SSLContext:
    """Return the context of a client, which takes any certificate: compare its hash before anything secret
    is sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def other_than(pin: str, connection: ssl.SSLObject) -> str:
    """Return the SHA-256 in hex of the certificate that the other end of a connection showed; empty if it is
    `pin`.
    """
    found = hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
    return "" if hmac.compare_digest(found, pin) else found
