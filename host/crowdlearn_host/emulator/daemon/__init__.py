"""The adb daemon of a virtual phone."""
