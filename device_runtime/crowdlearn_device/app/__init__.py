"""The Python half of the Android app: what it takes part in, on which conditions, and what it shows."""
