"""The neurons that a device owns, driven by the sums and errors that arrive."""
