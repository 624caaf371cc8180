"""One group in training, as state machines without I/O."""
