"""Ways to a phone: by its address, over a USB cable, behind an adb server, or started by us."""
