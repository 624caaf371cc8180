"""Services of a phone over adb: shell, files, ports."""
