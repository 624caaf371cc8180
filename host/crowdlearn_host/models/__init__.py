"""Models by name or reference."""
