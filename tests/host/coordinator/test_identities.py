"""What devices keep of each other stays true of the host: its numbers and the run's id outlive it."""

from __future__ import annotations

from pathlib import Path

from crowdlearn_host.coordinator.group.effects import Save, Send
from crowdlearn_host.coordinator.group.events import Joined
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.storage.run_folder import RunFolder

from .crowd import TWO_PIECES, Crowd, settings_for


def test_a_resumed_run_is_the_same_one_and_a_new_run_another(tmp_path: Path) -> None:
    ids = []
    for path, create in (("run", True), ("run", False), ("elsewhere/run", True), ("run", True)):
        with RunFolder(tmp_path / path, create=create) as folder:
            ids.append(folder.id)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3  # the last one takes the place of a run that never began


def test_a_device_has_its_number_for_good_before_others_hear_of_it(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    newcomer = crowd.group.devices[0]
    effects = handle(crowd.group, Joined(type(newcomer)(9, "late", bytes(32), 3)))
    kinds = [
        "save" if isinstance(effect, Save) else effect.frame.WhichOneof("body")
        for effect in effects
        if isinstance(effect, Save | Send)
    ]
    assert "heirs" in kinds
    assert kinds[0] == "save"


def test_a_device_that_comes_back_with_another_key_under_its_number_is_refused_by_the_others(
    tmp_path: Path,
) -> None:
    """A host that lets it in, as only a lying one would: it stops with the devices' reason."""
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    crowd.crash(1)
    crowd.phones[1].identity = type(crowd.phones[1].identity).generate()
    crowd.connect(1)
    crowd.run()
    assert crowd.group.phase == "stopped"
    assert "has changed its identity; start a new run" in crowd.group.reason
