"""Connections to the host: served through adb, or dialled."""
