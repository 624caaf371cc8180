"""A device's own samples, read from its disk."""
