"""A host that serves for weeks: runs from a queue, for devices that come and go."""
