"""Identities, sealed envelopes and snapshots, and the peers that a device has met."""
