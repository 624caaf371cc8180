"""Mechanisms and observers at the place where numbers leave or enter a device."""
