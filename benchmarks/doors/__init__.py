"""Attacks on the doors of a host, a device and a virtual phone, each with its figure and its limit."""
