"""The state of a piece at a boundary, in memory and on disk."""
