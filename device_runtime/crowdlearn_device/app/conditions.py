"""The app's conditions on assignments: its policy, and the list of devices that its owner took.

The runtime reads them (security/assignment_policy.py) in the folder of each way to a host.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from crowdlearn_device.errors import PolicyError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.security import device_list
from crowdlearn_device.security.assignment_policy import FILE

from .policy import Policy

log = logging.getLogger("crowdlearn")


def describe_list(link: str) -> str:
    """Return who signed the list in a link, and whom it names, for the owner to confirm.

    Raises PolicyError if it has none.
    """
    text = device_list.list_of_link(link)
    signer = device_list.signer_of(text)
    names = [*device_list.read_list(text, [signer])]
    shown = " ".join(signer[at : at + 4] for at in range(0, 32, 4))
    return f"{len(names)} devices ({', '.join(names)}), signed by {shown} ..."


def take_list(home: Path, link: str) -> None:
    """Keep the list in a link, whose signer the owner confirmed. Raises PolicyError if it has none."""
    write_atomically(home / device_list.FILE, device_list.list_of_link(link).encode(), private=True)


def write_conditions(home: Path, folder: Path, policy: Policy) -> None:
    """Write what the owner of the app at `home` asks for into `folder`, the runtime's for a way to hosts."""
    conditions: dict[str, object] = {
        "joules_a_day": policy.joules_a_day,
        "strangers": not policy.listed_only,
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken = home / device_list.FILE
    if taken.exists():
        try:
            text = taken.read_text()
            conditions["signers"] = [device_list.signer_of(text)]
            write_atomically(folder / device_list.FILE, text.encode(), private=True)
        except (ValueError, PolicyError) as error:
            log.error("the list of devices counts no longer: %s", error)
    write_atomically(folder / FILE, json.dumps(conditions, indent=1).encode(), private=True)
