"""Connections that carry adb streams: our multiplexer, or an adb server."""
