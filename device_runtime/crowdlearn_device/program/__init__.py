"""A slice program: its manifest, its ports, and the executor that runs it."""
