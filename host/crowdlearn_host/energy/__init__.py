"""Energy of phones, seen from the host: meters over adb, experiments with them, fitted constants."""
