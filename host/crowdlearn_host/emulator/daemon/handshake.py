"""The phone's half of connecting, without I/O: CNXN, then a signed token or a key that its owner accepts."""

from collections.abc import Callable

from crowdlearn_host.adb.wire.messages import MAX_PAYLOAD, VERSION, Command, Message, ProtocolError
from crowdlearn_host.adb.wire.streams import DELAYED_ACK
from crowdlearn_host.emulator.daemon.keys import KeyStore, parse_public_key

TOKEN_BYTES = 20
MIN_PAYLOAD = 4096
MAX_KEY = 4096
# What this phone speaks, and what keeps `adb` from protocols that it does not.
FEATURES = f"shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir,{DELAYED_ACK}"
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3


class Handshake:
    """One connection until it is online.

    `new_token` gives 20 random bytes; `auto_accept` trusts every key that is shown, as an emulator does.
    """

    def __init__(
        self, keys: KeyStore, identity: str, *, new_token: Callable[[], bytes], auto_accept: bool
    ) -> None:
        self.online = False
        self.version = VERSION
        self.max_payload = MAX_PAYLOAD
        self.peer_features: frozenset[str] = frozenset()
        self.pending_key: bytes | None = None
        self._keys = keys
        self._identity = identity
        self._new_token = new_token
        self._auto_accept = auto_accept
        self._token: bytes | None = None

    def receive(self, message: Message) -> list[Message]:
        """Answer a message of the computer. Raises ProtocolError."""
        match message.command:
            case Command.CNXN:
                if message.arg1 < MIN_PAYLOAD:
                    raise ProtocolError(
                        f"maximum payload of {message.arg1} bytes; at least {MIN_PAYLOAD} are needed"
                    )
                self.version = min(self.version, message.arg0)
                self.max_payload = min(self.max_payload, message.arg1)
                self.peer_features = _features(message.payload)
                return [self._challenge()]
            case Command.AUTH if self._token is not None and message.arg0 == _SIGNATURE:
                if self._keys.verifies(self._token, message.payload):
                    return [self._welcome()]
                return [self._challenge()]
            case Command.AUTH if self._token is not None and message.arg0 == _PUBLIC_KEY:
                return self._ask(message.payload.rstrip(b"\0"))
            case Command.STLS:
                raise ProtocolError("TLS was not offered")
        # adb opens nothing before it is online; what a confused peer sends meanwhile is not served.
        return []

    def accept(self) -> list[Message]:
        """Accept the key that waits, as the phone's owner does, and return the greeting; nothing if none
        waits.
        """
        if self.pending_key is None:
            return []
        self._keys.trust(self.pending_key)
        self.pending_key = None
        return [self._welcome()]

    def admit(self, greeting: Message) -> list[Message]:
        """Let a computer in whose key TLS has verified. Raises ProtocolError."""
        self.receive(greeting)
        return [self._welcome()]

    def _ask(self, line: bytes) -> list[Message]:
        if len(line) > MAX_KEY or b"\n" in line or parse_public_key(line) is None:
            raise ProtocolError("the key that was shown is not an RSA key of 2048 bits")
        self.pending_key = line
        return self.accept() if self._auto_accept else []

    def _challenge(self) -> Message:
        self._token = self._new_token()
        return Message(Command.AUTH, _TOKEN, 0, self._token)

    def _welcome(self) -> Message:
        self.online = True
        banner = f"device::{self._identity}features={FEATURES}"
        return Message(Command.CNXN, self.version, self.max_payload, banner.encode())


def _features(banner: bytes) -> frozenset[str]:
    """Return the features of a computer's banner, `host::features=a,b`. As Android takes them: of a zero at
    the end nothing is cut off, so the last feature is another with it.
    """
    properties = banner.decode(errors="replace").partition("::")[2].split(";")
    named = (each.removeprefix("features=") for each in properties if each.startswith("features="))
    return frozenset(",".join(named).split(","))
