"""Virtual phones: processes with an adb daemon of their own, good enough to stand in for phones in CI."""

from crowdlearn_host.phones.manager import accept, default_home, down, kill, list_phones, running, up
from crowdlearn_host.phones.settings import PhoneInfo

__all__ = ["PhoneInfo", "accept", "default_home", "down", "kill", "list_phones", "running", "up"]
