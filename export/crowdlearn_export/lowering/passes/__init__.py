"""Passes over the whole traced graph."""
