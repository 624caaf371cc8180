"""Hypothesis drives the order of everything, drops connections, and crashes devices and host."""

from __future__ import annotations

from contextlib import ExitStack

from crowdlearn_device.protocol.frames import encode_frame
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .crowd import Crowd, largest_difference, memory_folder, settings_for

SAMPLES = (4, 3, 5, 2)
TAMPERED = 5
"""Fewer than the group forgives in a row."""


class AnyInterleaving(RuleBasedStateMachine):
    """Four devices, three pieces, one epoch. Whatever happens, all ends as if nothing had happened."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = self.stack.enter_context(memory_folder())

    @initialize(
        seed=st.integers(0, 1000),
        every=st.sampled_from([1, 2, 3]),
        staleness=st.sampled_from([0, 1]),
        frozen=st.sampled_from([0, 1, 2]),
        busy=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def start(self, seed: int, every: int, staleness: int, frozen: int, busy: float) -> None:
        """Where first layers are frozen, the dominator is ahead of those who go backward."""
        self.settings = settings_for(
            frozen=frozen, epochs=1, snapshot_every=every, staleness=staleness, in_flight=4, batch=2
        )
        self.crowd = Crowd(self.folder / "crowd", self.settings, SAMPLES, seed, busy=busy)
        self.tampered = 0

    @rule(steps=st.integers(1, 120))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            if actions := self.crowd.actions():
                self.crowd.act(self.crowd.rng.choice(actions))

    @rule(number=st.integers(0, 3), back=st.booleans())
    def crash(self, number: int, back: bool) -> None:
        self.crowd.crash(number)
        if back:
            self.crowd.connect(number)

    @rule(number=st.integers(0, 3))
    def come_back(self, number: int) -> None:
        if self.crowd.phones[number].member is None:
            self.crowd.connect(number)

    @rule(effects=st.integers(0, 4))
    def crash_host(self, effects: int) -> None:
        self.crowd.host.effects_left = effects

    @precondition(lambda self: self.tampered < TAMPERED)
    @rule(number=st.integers(0, 3), repeat=st.booleans())
    def tamper(self, number: int, repeat: bool) -> None:
        """The relay damages or repeats the next message to a device, whatever it is."""
        connection = self.crowd.phones[number].connection
        if connection is None or not connection.down:
            return
        self.tampered += 1
        if repeat:
            connection.down.insert(1, connection.down[0])
            return
        frame = self.crowd.next_frame(connection)
        if frame.HasField("envelope"):
            frame.envelope.sealed = frame.envelope.sealed[:-1] + bytes([frame.envelope.sealed[-1] ^ 1])
            connection.down[0] = encode_frame(frame)

    @invariant()
    def never_stopped(self) -> None:
        if hasattr(self, "crowd"):
            assert self.crowd.group.phase != "stopped", self.crowd.group.reason

    def teardown(self) -> None:
        try:
            if hasattr(self, "crowd"):
                self._end()
        finally:
            self.stack.close()

    def _end(self) -> None:
        """Once everybody is back, the run ends with the weights of a run in which nothing happened."""
        crowd = self.crowd
        for number in range(len(SAMPLES)):
            self.come_back(number)
        crowd.run()
        for phone in crowd.phones:
            if phone.member is None and not crowd.done:
                crowd.connect(phone.number)
        crowd.run()
        crowd.check_done()
        calm = Crowd(self.folder / "calm", self.settings, SAMPLES)
        calm.run()
        assert not calm.log("fault")
        assert largest_difference(crowd.model(), calm.model()) <= 1e-6


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
