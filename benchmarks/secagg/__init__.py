"""Secure sums: bytes and seconds of a device and of the host, and both beside Flower's SecAgg+."""
