"""Commands that act on samples."""
