"""The host's own TLS certificate: self-signed, kept for life, known to devices by its hash."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path

from crowdlearn_device.platform.files import write_atomically
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crowdlearn_host.common.files import turn
from crowdlearn_host.errors import FleetError

FILE = "host.pem"
"""The file of certificate and key in a home."""
YEARS = 20


def certificate(home: Path) -> tuple[ssl.SSLContext, str]:
    """Return the context to serve with, and the certificate's SHA-256 in hex; made in `home` at first use.

    Raises FleetError if what is there cannot be used.
    """
    path = home / FILE
    if not path.exists():
        with turn(path):
            if not path.exists():
                _make(path)
    return served_with(path)


def served_with(path: Path) -> tuple[ssl.SSLContext, str]:
    """Return the context to serve with the certificate and key in a file, and the certificate's SHA-256 in
    hex. Raises FleetError if they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(path)
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FleetError(f"{path} cannot be used ({error}); delete it and enrol the devices again") from error
    return context, hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest()


def _make(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crowdlearn host")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(path, private + made.public_bytes(serialization.Encoding.PEM), private=True)
