"""Models that people train on phones: which of them train, how exactly and how fast."""
