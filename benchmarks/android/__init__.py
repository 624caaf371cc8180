"""Our programs on the libraries that phones have, compared with the Python runtime here."""
