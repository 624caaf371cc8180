"""Devices that dial the host: its certificate, who may join, and where it listens."""
