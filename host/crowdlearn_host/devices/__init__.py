"""Devices at hand: finding them, what they say about themselves, and what was measured on them."""
