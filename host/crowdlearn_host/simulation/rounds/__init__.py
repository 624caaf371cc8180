"""Rounds of a simulated run, one file a strategy."""
