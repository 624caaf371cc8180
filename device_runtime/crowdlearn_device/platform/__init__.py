"""The operating system: files, memory, battery."""
