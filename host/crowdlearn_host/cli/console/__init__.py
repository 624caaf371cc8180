"""The terminal: progress, tables, and files that a command writes."""
