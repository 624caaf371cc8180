"""The user's adb key pair: the same file that `adb` uses."""

import os
import tempfile
from pathlib import Path

from adb_shell.auth.keygen import keygen
from adb_shell.auth.sign_cryptography import CryptographySigner
from crowdlearn_device.platform.files import not_to_read
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from crowdlearn_host.common.files import turn
from crowdlearn_host.errors import FleetError

MAX_KEY = 1 << 20


def default_key_path() -> Path:
    """Return where adb keeps the user's private key."""
    return Path.home() / ".android" / "adbkey"


def load_signer(path: Path) -> CryptographySigner:
    """Return the key pair at `path` and `path`.pub, made when missing.

    Raises FleetError if it cannot be read, has a passphrase, or is no RSA key.
    """
    try:
        if not path.exists():
            _make(path)
        if why := not_to_read(path, MAX_KEY):
            raise FleetError(f"the adb key {path} {why}")
        public = Path(f"{path}.pub")
        if not public.exists():
            raise FleetError(f"{public} is missing beside {path}: delete {path} to have a new pair made")
        signer = CryptographySigner(os.fspath(path))
        if not isinstance(signer.rsa_key, RSAPrivateKey):
            raise FleetError(f"the adb key {path} cannot be used: adb takes RSA keys only")
        return signer
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError(f"the adb key {path} cannot be used: {error}") from error


def _make(path: Path) -> None:
    """Make the pair whole: several connections may want it at once, and a half-written key would be used."""
    with turn(path), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        if path.exists():
            return
        fresh = Path(folder) / path.name
        keygen(str(fresh))
        fresh.chmod(0o600)
        os.replace(f"{fresh}.pub", f"{path}.pub")
        os.replace(fresh, path)
