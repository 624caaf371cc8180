"""Simulated crowds: the arithmetic of a run without sockets."""
