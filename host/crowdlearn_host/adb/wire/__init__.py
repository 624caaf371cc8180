"""The adb protocol as bytes, without I/O: one codec for the host and for virtual phones."""
