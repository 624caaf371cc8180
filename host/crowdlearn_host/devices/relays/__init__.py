"""Relay processes beside the host's own: each passes on what the devices of its groups send each other."""
