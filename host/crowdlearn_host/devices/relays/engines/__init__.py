"""Engines: where relay processes run."""
